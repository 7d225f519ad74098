"""``python -m subquad.quickstart``: the main job by itself."""

import typer

from subquad.quickstart.commands import quickstart

if __name__ == "__main__":
    typer.run(quickstart)
