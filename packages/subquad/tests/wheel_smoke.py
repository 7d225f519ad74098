"""Runs in a fresh virtual environment with this wheel and what it declares: every command is there."""

from typer.testing import CliRunner

from subquad.command import build_application, find_registrations

registrations, problems = find_registrations()
assert problems == [], problems
help_text = CliRunner().invoke(build_application(registrations), ["--help"]).output
for command in ("doctor", "train", "generate", "score", "serve", "client", "quickstart"):
    assert command in help_text, f"{command} is missing from:\n{help_text}"
