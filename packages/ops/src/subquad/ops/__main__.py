"""``python -m subquad.ops``: the commands of this package alone."""

import typer

from subquad.ops.commands import register


def main() -> None:
    """Runs ``doctor``."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    @app.callback()
    def commands() -> None:
        """Commands of subquad.ops."""

    register(app)
    app(prog_name="python -m subquad.ops")


if __name__ == "__main__":
    main()
