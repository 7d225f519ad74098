"""``python -m subquad.inference``: the commands of this package alone."""

import typer

from subquad.inference.commands import register
from subquad.inference.commands.failures import escape_what_the_locale_lacks


def main() -> None:
    """Runs the command that the arguments name."""
    escape_what_the_locale_lacks()
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    register(app)
    app(prog_name="python -m subquad.inference")


if __name__ == "__main__":
    main()
