"""Counters and gauges of one server for Prometheus, served on a loopback port of their own."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily

from subquad.server.errors import ListenError

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SCHEDULER_GAUGES = {
    "running": "Requests that hold a slot.",
    "queued": "Requests that wait for a slot.",
    "queued_tokens": "Prompt tokens that wait for a slot.",
    "slots_free": "Slots that hold no request.",
}


@runtime_checkable
class SchedulerNumbers(Protocol):
    """The scheduler's numbers at one moment; see `SCHEDULER_GAUGES`."""

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        ...

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        ...

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that wait for a slot."""
        ...

    @property
    def slots_free(self) -> int:
        """Slots that hold no request."""
        ...

    @property
    def step_seconds(self) -> float:
        """Time since the engine began its current step, in seconds; 0 while it is idle."""
        ...


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "subquad_requests", "Ended requests by method and status code.", ["method", "code"], registry=self.registry
        )
        self.in_flight = Gauge(
            "subquad_requests_in_flight", "Requests being answered, queued ones included.", registry=self.registry
        )
        self.duration = Histogram(
            "subquad_request_seconds", "Time of a request.", ["method"], buckets=LATENCY_BUCKETS, registry=self.registry
        )
        self.first_token = self._latency("subquad_time_to_first_token_seconds", "From arrival to the first token.")
        self.between_tokens = self._latency("subquad_inter_token_seconds", "Time between two tokens of one sample.")
        self.prompt_tokens = Counter("subquad_prompt_tokens", "Tokens of accepted prompts.", registry=self.registry)
        self.generated_tokens = Counter("subquad_generated_tokens", "Generated tokens.", registry=self.registry)
        self.scored_tokens = Counter("subquad_scored_tokens", "Scored tokens.", registry=self.registry)
        self.finished = Counter("subquad_samples_finished", "Samples by reason.", ["reason"], registry=self.registry)
        self.non_finite = Counter(
            "subquad_non_finite_logits", "Requests ended by NaN or infinite logits.", registry=self.registry
        )

    def _latency(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=LATENCY_BUCKETS, registry=self.registry)

    def watch(self, numbers: Callable[[], SchedulerNumbers]) -> None:
        """Adds the scheduler's gauges, read at each scrape."""
        self.registry.register(_SchedulerCollector(numbers))

    def listen(self, port: int) -> "MetricsListener":
        """Serves ``/metrics`` on ``127.0.0.1:port``; port 0 takes a free one.

        Raises:
          ListenError: The port is taken.
        """
        try:
            server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise ListenError(f"metrics port 127.0.0.1:{port}: {error.strerror}") from None
        return MetricsListener(server, thread)


class MetricsListener:
    """The HTTP listener of the metrics."""

    def __init__(self, server: Any, thread: Any) -> None:
        self._server, self._thread = server, thread
        self.port: int = server.server_port

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _SchedulerCollector:
    def __init__(self, numbers: Callable[[], SchedulerNumbers]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[GaugeMetricFamily]:
        numbers = self._numbers()
        for name, text in SCHEDULER_GAUGES.items():
            yield GaugeMetricFamily(f"subquad_scheduler_{name}", text, value=getattr(numbers, name))
