"""The commands ``subquad generate``, ``score``, ``embed``, ``variants``, ``plot``, ``info`` and ``convert``.

Torch is loaded inside them only.
"""

import typer

from subquad.inference.commands.convert import convert
from subquad.inference.commands.embed import embed
from subquad.inference.commands.generate import generate
from subquad.inference.commands.info import info
from subquad.inference.commands.plot import plot
from subquad.inference.commands.score import score
from subquad.inference.commands.variants import variants


def register(app: typer.Typer) -> None:
    """Adds the commands of this package to an application."""
    for command in (generate, score, embed, variants, plot, info, convert):
        app.command()(command)
