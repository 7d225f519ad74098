"""The command lines of the recipes; heavy imports happen inside the commands."""

import typer

from subquad.recipes.commands.merge import merge
from subquad.recipes.commands.train import train


def register(app: typer.Typer) -> None:
    """Adds `train` and `merge` to an application."""
    app.command("train")(train)
    app.command("merge")(merge)
