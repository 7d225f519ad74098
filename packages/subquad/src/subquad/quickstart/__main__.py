"""``python -m subquad.quickstart``: the main job by itself."""

import typer

from subquad.inference.commands.program import run_application
from subquad.quickstart.commands import register

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    register(app)
    run_application(app, "python -m subquad.quickstart")
