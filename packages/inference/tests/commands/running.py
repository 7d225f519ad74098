"""Runs the commands of this source tree in the test's own process."""

import json

import typer
from typer.testing import CliRunner

from subquad.inference.commands import register


def run(*arguments, stdin=None):
    """Runs ``subquad ARGUMENTS`` and returns exit code, standard output and standard error."""
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def done(*arguments, stdin=None):
    """Does `run` and fails unless the exit code is 0."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result


def lines(text):
    """Reads JSON lines."""
    return [json.loads(line) for line in text.splitlines()]
