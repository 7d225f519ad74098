"""The command of this package: ``doctor``."""

import typer


def register(app: typer.Typer) -> None:
    """Adds ``doctor`` to a Typer application."""
    app.command()(doctor)


def doctor() -> None:
    """Print versions, the GPU, and which operator backends can run here and why the others cannot."""
    from subquad.ops.diagnosis import diagnose

    for line in diagnose():
        typer.echo(line)
