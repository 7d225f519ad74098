"""The commands ``subquad serve`` and ``subquad client``."""

import typer

from subquad.server.commands.client import client
from subquad.server.commands.serve import serve


def register(app: typer.Typer) -> None:
    """Adds the commands of this package to an application."""
    app.command()(serve)
    app.add_typer(client, name="client", help="Ask a running server: info, generate, score.")
