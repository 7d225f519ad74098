"""``subquad quickstart``."""

import os
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the ``quickstart`` command to ``app``."""
    app.command("quickstart")(quickstart)


def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value…", help="Changes of the training settings, such as run.steps=50."),
    ] = None,
    genome: Annotated[
        Path | None, typer.Option(help="A FASTA file (plain or gzip) to train on instead of phage lambda.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The folder to leave; default: subquad-quickstart in the current folder.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show the progress of the training on stderr.")] = True,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
) -> None:
    """Train on a real genome, compare, save, serve over gRPC, generate and score."""
    from rich.console import Console

    from subquad.quickstart.report import print_report
    from subquad.quickstart.run import OUTPUT_FOLDER, run_quickstart

    caller = os.environ.get("SUBQUAD_CALLER_FOLDER") or os.environ.get("BUILD_WORKING_DIRECTORY")
    here = Path(caller or ".")  # under `bazel run` the process starts elsewhere
    console = Console(soft_wrap=True)
    try:
        result = run_quickstart(
            here / (output or OUTPUT_FOLDER),
            genome=None if genome is None else here / genome,
            overrides=overrides,
            say=lambda line: console.print(line, markup=False, highlight=False),
            progress=progress,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was left behind", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        status = _exit_status(error)
        if traceback or status is None:
            raise
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(status) from None
    print_report(result, console)


def _exit_status(error: Exception) -> int | None:
    """2 for what the caller can put right, 1 for what failed on the way, 130 for Ctrl-C, None for a bug."""
    from subquad.lazy_config import LazyConfigError
    from subquad.quickstart.errors import QuickstartError
    from subquad.recipes.errors import RecipeError, TrainingInterrupted
    from subquad.server.errors import ServerError

    if isinstance(error, TrainingInterrupted):
        return 130
    if isinstance(error, RecipeError | LazyConfigError):
        return 2
    return 1 if isinstance(error, QuickstartError | ServerError | OSError) else None
