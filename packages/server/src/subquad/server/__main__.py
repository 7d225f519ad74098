"""``python -m subquad.server``: the commands of this package alone."""

import typer

from subquad.inference.commands.program import run_application
from subquad.server.commands import register


def main() -> None:
    """Runs ``serve`` or ``client``."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    register(app)
    run_application(app, "python -m subquad.server")


if __name__ == "__main__":
    main()
