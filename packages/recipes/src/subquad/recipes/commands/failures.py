"""How the commands of this package end when something is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def failures_in_one_line(*, traceback: bool) -> Iterator[None]:
    """Turns an error that the user can put right into one line on stderr and an exit status; bugs pass through.

    Args:
      traceback: Whether those errors pass through too.

    Raises:
      typer.Exit: With status 2 for what was asked for, 1 for what the machine refused.
    """
    try:
        yield
    except Exception as error:
        status = _status(error)
        if traceback or status is None:
            raise
        # Further lines, where an error has some, tell a developer about signatures and origins.
        typer.echo(f"error: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(status) from None


def _status(error: Exception) -> int | None:
    """Returns the exit status of an error that the user can put right, None for a bug."""
    from subquad.inference.errors import InferenceError
    from subquad.lazy_config import LazyConfigError
    from subquad.modules.errors import ModulesError
    from subquad.recipes.errors import RecipeError

    if isinstance(error, RecipeError | LazyConfigError | ModulesError | InferenceError):
        return 2
    return 1 if isinstance(error, OSError) else None
