"""``python -m subquad.ops``: the commands of this package alone."""

import sys

import typer

from subquad.ops.commands import register


def main() -> None:
    """Runs ``doctor``."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    @app.callback()
    def commands() -> None:
        """Commands of subquad.ops."""

    register(app)
    name = "python -m subquad.ops"
    try:
        status = app(prog_name=name, standalone_mode=False)
    except Exception as error:
        # Typer brings Click's errors under names that change with its version.
        status, told = getattr(error, "exit_code", None), getattr(error, "format_message", None)
        if status is None or told is None:
            raise
        if type(error).__name__ != "NoArgsIsHelpError":  # the help has been printed
            text = " ".join(told().split()).removesuffix(".")
            context = getattr(error, "ctx", None)
            path = name if context is None else context.command_path
            print(f"error: {text}; see `{path} --help`", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
