"""``python -m subquad.inference``: the commands of this package alone."""

import typer

from subquad.inference.commands import register
from subquad.inference.commands.program import run_application


def main() -> None:
    """Runs the command that the arguments name."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    register(app)
    run_application(app, "python -m subquad.inference")


if __name__ == "__main__":
    main()
