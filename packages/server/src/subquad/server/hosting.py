"""One running server: it listens, loads, serves and drains, in this order."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import grpc
from grpc_reflection.v1alpha import reflection

from subquad.genomics.v1 import service_pb2_grpc
from subquad.inference import Finished, GenerateJob, GenerationOptions
from subquad.server.boundary import Boundary
from subquad.server.engine_events import EngineEvents
from subquad.server.errors import ListenError, SettingsError, Unavailable
from subquad.server.health import RETRY_SECONDS, Phase, Readiness
from subquad.server.limits import SERVICE_NAME, ServingLimits
from subquad.server.metrics import Metrics, MetricsListener
from subquad.server.security import Security, TokenGate, check_free, parse_bind
from subquad.server.service import GenomicsService, ServedEngine

ENGINE_CHECK_SECONDS = 0.5
WATCHDOG_SECONDS = {False: 30.0, True: 600.0}  # by whether the engine is on a CPU
HEALTH_SERVICE_NAME = "grpc.health.v1.Health"
WARM_UP_PROMPT = "ACGT"
_LAME_DUCK_SECONDS = 0.1


@dataclass(frozen=True)
class ServerSettings:
    """How one server listens and what it accepts.

    Args:
      bind: ``HOST:PORT``; port 0 takes a free one.
      limits: What requests may ask for.
      security: TLS, tokens, and whether plaintext may leave this machine.
      metrics_port: Loopback port of the Prometheus metrics; 0 takes a free one, None serves none.
      drain_seconds: Time that running requests get to end on shutdown.
      reflection: Whether callers may ask for the service's description.
      watchdog_seconds: Longest time one engine step may take before the engine counts as dead; None: 30 on a GPU,
        600 on a CPU.
      max_connection_age: Seconds after which clients reconnect, so that new servers get a share; None: never.

    Raises:
      SettingsError: The address is no HOST:PORT, reachable in plaintext from elsewhere, or a time is negative.
    """

    bind: str = "127.0.0.1:50051"
    limits: ServingLimits = field(default_factory=ServingLimits)
    security: Security = field(default_factory=Security)
    metrics_port: int | None = None
    drain_seconds: float = 30.0
    reflection: bool = True
    max_connection_age: float | None = None
    watchdog_seconds: float | None = None

    def __post_init__(self) -> None:
        self.security.check_bind(parse_bind(self.bind))
        if not 0 <= self.drain_seconds < float("inf"):
            raise SettingsError(f"drain_seconds is {self.drain_seconds:g}; accepted: 0 or more")
        if self.watchdog_seconds is not None and not self.watchdog_seconds > 0:
            raise SettingsError(f"watchdog_seconds is {self.watchdog_seconds:g}; accepted: above 0")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise SettingsError(f"metrics_port is {self.metrics_port}; accepted: 0 to 65535")
        if self.max_connection_age is not None and not 1 <= self.max_connection_age < 1e6:
            raise SettingsError(f"max_connection_age is {self.max_connection_age:g}; accepted: 1 to 1000000 seconds")

    def channel_options(self) -> list[tuple[str, int]]:
        """The options of the listening socket and its connections."""
        options = [
            ("grpc.so_reuseport", 0),  # with 1, gRPC's default, a second server on the port would bind silently
            ("grpc.max_receive_message_length", self.limits.max_message_bytes),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ]
        if self.max_connection_age is not None:
            options.append(("grpc.max_connection_age_ms", int(self.max_connection_age * 1000)))
        return options


class GenomicsServer:
    """A server of one model.

    Args:
      settings: How it listens and what it accepts.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.address = ""
        self.metrics_listener: MetricsListener | None = None
        self._service = GenomicsService(settings.limits, self.metrics)
        self._served: ServedEngine | None = None
        self._stopped = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Opens the port; health says NOT_SERVING and the service answers UNAVAILABLE until `serve`.

        Raises:
          ListenError: The address cannot be listened on, for example since the port is taken.
          SettingsError: A TLS file cannot be used.
        """
        settings, wanted = self.settings, parse_bind(self.settings.bind)
        self._boundary = Boundary(self.readiness, settings.limits, self.metrics)
        interceptors = [TokenGate(settings.security.tokens), self._boundary]
        self._server = grpc.aio.server(interceptors=interceptors, options=settings.channel_options())
        service_pb2_grpc.add_GenomicsServiceServicer_to_server(self._service, self._server)
        await self.readiness.add_to(self._server)
        if settings.reflection:
            names = (SERVICE_NAME, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        check_free(wanted)
        credentials = settings.security.credentials()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(str(wanted))
            else:
                port = self._server.add_secure_port(str(wanted), credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise ListenError(f"cannot listen on {wanted}")
        self.address = str(type(wanted)(wanted.host, port))
        if settings.metrics_port is not None:
            self.metrics_listener = self.metrics.listen(settings.metrics_port)
        await self._server.start()

    async def serve(self, served: ServedEngine) -> None:
        """Attaches a loaded engine with a started scheduler, runs it once, and says SERVING.

        Raises:
          RequestError: The first run failed.
        """
        self._served = served
        await warm_up(served)
        self._service.attach(served)
        self.metrics.watch(served.scheduler.stats)
        await self.readiness.enter(Phase.SERVING)
        self._watch = asyncio.create_task(self._watch_engine(served))

    async def _watch_engine(self, served: ServedEngine) -> None:
        longest = self.settings.watchdog_seconds or WATCHDOG_SECONDS[str(served.engine.device) == "cpu"]
        while served.scheduler.alive and served.scheduler.stats().step_seconds <= longest:
            await asyncio.sleep(ENGINE_CHECK_SECONDS)
        if self.readiness.phase is Phase.SERVING:
            await self.readiness.enter(Phase.FAILED)
            self._boundary.end_all(lambda: Unavailable("the engine has stopped", retry_delay=RETRY_SECONDS))
            self._stopped.set()

    @property
    def engine_failed(self) -> bool:
        """Whether the engine died while it served."""
        return self.readiness.phase is Phase.FAILED

    async def wait_for_engine_failure(self) -> None:
        """Returns once the engine thread has died; health then says NOT_SERVING."""
        await self._stopped.wait()

    async def drain(self) -> None:
        """Shuts down: NOT_SERVING, no new requests, `drain_seconds` for running ones; the rest ends UNAVAILABLE.

        The port stays open a moment longer, in which new requests are answered UNAVAILABLE and clients that watch the
        health go elsewhere: gRPC cancels what reaches a server that is closing, and a cancelled call is not retried.
        """
        if self._watch is not None:
            self._watch.cancel()
        deadline = time.monotonic() + self.settings.drain_seconds
        if self.readiness.phase is not Phase.FAILED:
            await self.readiness.enter(Phase.DRAINING)
            await asyncio.sleep(min(_LAME_DUCK_SECONDS, self.settings.drain_seconds))
        stopping = asyncio.create_task(self._server.stop(self.settings.drain_seconds + 2.0))
        await asyncio.sleep(0)
        if not await self._boundary.wait_idle(max(0.0, deadline - time.monotonic())):
            self._boundary.end_all(lambda: Unavailable("the server is shutting down", retry_delay=RETRY_SECONDS))
            await self._boundary.wait_idle(1.0)
        if self._served is not None:
            left = max(0.0, deadline - time.monotonic())
            await asyncio.to_thread(self._served.scheduler.close, left)
        await self._server.stop(0.2)
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        if self.metrics_listener is not None:
            await asyncio.to_thread(self.metrics_listener.close)


async def warm_up(served: ServedEngine) -> None:
    """Lets the engine extend a short prompt, so that SERVING means that it works.

    Raises:
      RequestError: It does not.
    """
    job = GenerateJob(
        prompt_ids=served.engine.tokenizer.encode(WARM_UP_PROMPT), options=GenerationOptions(max_new_tokens=2)
    )
    async with EngineEvents(served.scheduler, lambda wake: served.scheduler.generate(job, wake)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return


async def start_server(served: ServedEngine, settings: ServerSettings | None = None) -> GenomicsServer:
    """Listens and serves an engine whose scheduler runs; end it by `GenomicsServer.drain`.

    Raises:
      ListenError: The address cannot be listened on.
      SettingsError: The settings cannot be used.
    """
    server = GenomicsServer(settings or ServerSettings())
    await server.listen()
    await server.serve(served)
    return server
