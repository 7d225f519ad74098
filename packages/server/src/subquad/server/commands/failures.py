"""How a command ends by an error: one line on stderr and an exit status, and a traceback only where asked for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from subquad.server.errors import ServerError

BAD_INPUT, FAILED = 2, 1

Traceback = Annotated[bool, typer.Option("--traceback", help="Show Python's traceback of an error.")]


@contextmanager
def one_line_errors(*, traceback: bool) -> Iterator[None]:
    """Ends the command with ``error: …``; status 2 for bad input (every ValueError of ours) and 1 for all else."""
    try:
        yield
    except (typer.Exit, typer.Abort, KeyboardInterrupt):
        raise
    except Exception as error:
        if traceback:
            raise
        known = isinstance(error, ServerError) or type(error).__module__.startswith("subquad.")
        text = str(error) if known else f"{type(error).__name__}: {error}"
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        for violation in getattr(error, "violations", ())[1:]:
            print(f"  {violation}", file=sys.stderr)
        bad_input = known and isinstance(error, ValueError)
        raise typer.Exit(BAD_INPUT if bad_input else FAILED) from None
