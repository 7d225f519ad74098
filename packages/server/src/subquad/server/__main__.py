"""``python -m subquad.server``: the commands of this package alone."""

import typer

from subquad.server.commands import register


def main() -> None:
    """Runs ``serve`` or ``client``."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    register(app)
    app(prog_name="python -m subquad.server")


if __name__ == "__main__":
    main()
