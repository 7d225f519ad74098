"""The commands ``subquad generate``, ``score``, ``info`` and ``convert``; torch is loaded inside them only."""

import typer

from subquad.inference.commands.convert import convert
from subquad.inference.commands.generate import generate
from subquad.inference.commands.info import info
from subquad.inference.commands.score import score


def register(app: typer.Typer) -> None:
    """Adds the commands of this package to an application."""
    app.command()(generate)
    app.command()(score)
    app.command()(info)
    app.command()(convert)
