"""`python -m subquad.recipes`."""

import typer

from subquad.inference.commands.program import run_application
from subquad.recipes.commands import register


def main() -> None:
    """Runs the commands of this package."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_describe)
    register(app)
    run_application(app, "python -m subquad.recipes")


def _describe() -> None:
    """Train networks on genomes."""


if __name__ == "__main__":
    main()
