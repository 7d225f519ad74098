"""``subquad serve CHECKPOINT``."""

import asyncio
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subquad.server.commands.failures import Traceback, one_line_errors
from subquad.server.errors import SettingsError
from subquad.server.limits import ServingLimits

if TYPE_CHECKING:
    from subquad.inference import Engine
    from subquad.server.hosting import GenomicsServer, ServerSettings
    from subquad.server.service import ServedEngine

DEFAULT = ServingLimits()
LOG_LEVELS = ("debug", "info", "warning", "error")

Count = Annotated[int, typer.Option(rich_help_panel="Limits")]
Seconds = Annotated[float, typer.Option(rich_help_panel="Limits")]
SecurityFile = Annotated[Path | None, typer.Option(rich_help_panel="Security")]


def serve(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a native checkpoint.", show_default=False)],
    *,
    bind: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:50051",
    name: Annotated[str, typer.Option(help="Name of the model; default: the folder's.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    fp8_projections: Annotated[
        str, typer.Option(help="Of a checkpoint that has them: auto wants an H100 or H200; or emulate, exact, off.")
    ] = "auto",
    weights: Annotated[
        str,
        typer.Option(
            help="stored, or fp8: linear layers of one byte a weight, half the memory of bfloat16, 2.6 times its error."
        ),
    ] = "stored",
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="Processes that share every layer, one CUDA device each, or the CPU.")
    ] = 1,
    prefill_chunk: Annotated[int, typer.Option(help="Prompt tokens read in one step.")] = 2048,
    use_subquadratic_ops: Annotated[
        bool | None,
        typer.Option(
            "--use-subquadratic-ops/--no-use-subquadratic-ops",
            help="Demand fused operators in prefill and scoring, or run their parts one by one.",
        ),
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Loopback port of the Prometheus metrics.")] = None,
    reflection: Annotated[bool, typer.Option(help="Let callers ask for the service's description.")] = True,
    drain_seconds: Annotated[float, typer.Option(help="Time that running requests get on shutdown.")] = 30.0,
    watchdog_seconds: Annotated[
        float | None, typer.Option(help="Longest engine step; default: 30 on a GPU, 600 on a CPU.")
    ] = None,
    max_connection_age: Annotated[float | None, typer.Option(help="Seconds until clients reconnect.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
    traceback: Traceback = False,
    allow_plaintext: Annotated[
        bool, typer.Option("--allow-plaintext", rich_help_panel="Security", help="Let other machines in without TLS.")
    ] = False,
    tls_certificate: SecurityFile = None,
    tls_key: SecurityFile = None,
    tls_client_ca: SecurityFile = None,
    token_file: SecurityFile = None,
    max_sequence_tokens: Count = DEFAULT.max_sequence_tokens,
    max_new_tokens: Count = DEFAULT.max_new_tokens,
    max_sequences_per_request: Count = DEFAULT.max_sequences_per_request,
    max_tokens_per_request: Count = DEFAULT.max_tokens_per_request,
    max_running_requests: Count = DEFAULT.max_running_requests,
    max_queued_requests: Count = DEFAULT.max_queued_requests,
    max_deadline: Seconds = DEFAULT.max_deadline,
    default_deadline: Seconds = DEFAULT.default_deadline,
    max_queued_tokens: Count = DEFAULT.max_queued_tokens,
    max_variants_per_request: Count = DEFAULT.max_variants_per_request,
    max_layers_per_request: Count = DEFAULT.max_layers_per_request,
    max_samples_per_request: Count = DEFAULT.max_samples_per_request,
    max_stop_sequences: Count = DEFAULT.max_stop_sequences,
    max_message_bytes: Count = DEFAULT.max_message_bytes,
    max_scored_tokens_with_logprobs: Count = DEFAULT.max_scored_tokens_with_logprobs,
) -> None:
    """Serve a checkpoint over gRPC until SIGTERM or Ctrl-C.

    Prints `serving NAME on HOST:PORT` once requests are answered.
    """
    with one_line_errors(traceback=traceback):
        _start_logging(log_level)
        limits = ServingLimits(**{limit.name: context.params[limit.name] for limit in fields(ServingLimits)})
        _require_serving_packages()
        from subquad.server.hosting import ServerSettings
        from subquad.server.lifecycle import run_server
        from subquad.server.security import Security, TokenTable

        settings = ServerSettings(
            bind=bind,
            limits=limits,
            security=Security(
                certificate=tls_certificate,
                private_key=tls_key,
                client_ca=tls_client_ca,
                tokens=TokenTable.read(token_file) if token_file else TokenTable(),
                allow_plaintext=allow_plaintext,
            ),
            metrics_port=metrics_port,
            drain_seconds=drain_seconds,
            reflection=reflection,
            max_connection_age=max_connection_age,
            watchdog_seconds=watchdog_seconds,
        )
        model = _model_name(name, checkpoint)

        def load() -> "ServedEngine":
            from subquad.inference import Engine  # torch comes with it

            engine = Engine.from_checkpoint(
                checkpoint,
                device=device,
                dtype=dtype,
                fp8_projections=fp8_projections,
                weights=weights,
                tensor_parallel=tensor_parallel,
                use_subquadratic_ops=use_subquadratic_ops,
            )
            return _served(engine, model, prefill_chunk=prefill_chunk, settings=settings)

        def announce(server: "GenomicsServer") -> None:
            if server.metrics_listener is not None:
                print(f"metrics on http://127.0.0.1:{server.metrics_listener.port}/metrics")
            print(f"serving {model} on {server.address}", flush=True)

        status = asyncio.run(run_server(settings, load, announce))
        if status:
            raise typer.Exit(status)


def _served(engine: "Engine", name: str, *, prefill_chunk: int, settings: "ServerSettings") -> "ServedEngine":
    """Starts the scheduler of an engine."""
    from subquad.inference import Scheduler, SchedulerLimits
    from subquad.server.service import ServedEngine

    limits = settings.limits
    scheduler = Scheduler(
        engine,
        SchedulerLimits(
            max_running=limits.max_running_requests,
            max_queued=limits.max_queued_requests,
            max_queued_tokens=limits.max_queued_tokens,
            prefill_chunk=prefill_chunk,
            max_sequence_tokens=limits.max_sequence_tokens or None,
        ),
    )
    scheduler.start()
    return ServedEngine(name, engine, scheduler)


def _model_name(name: str, checkpoint: Path) -> str:
    name = name or checkpoint.resolve().name
    if not name.isascii() or not name.isprintable() or " " in name or len(name) > 64:
        raise SettingsError(f"name is {name[:64]!a}; accepted: 1 to 64 printable ASCII characters, no space")
    return name


def _require_serving_packages() -> None:
    try:
        import grpc_reflection
        import prometheus_client

        import subquad.inference.errors  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingsError(f"{error.name} is not installed; install subquad-server[serve]") from None
    del grpc_reflection, prometheus_client


def _start_logging(level: str) -> None:
    if level not in LOG_LEVELS:
        raise SettingsError(f"log_level is {level!a}; accepted: {', '.join(LOG_LEVELS)}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
