"""Tests of options that are declared once and taken by several commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from subquad.inference.commands.option_groups import Changeable, chosen_flags, with_options


@dataclass(frozen=True)
class Limits:
    """A required option, one with a name of its own and one that may change."""

    most: Annotated[int, typer.Option(help="Most.")]
    quick: Annotated[bool | None, typer.Option("--fast/--slow")] = None
    folder: Annotated[Path, typer.Option("--into", "-i")] = Path("here")
    shown: Annotated[bool, typer.Option("--shown"), Changeable()] = False


def invoke(*arguments):
    seen = []

    @with_options
    def command(name: Annotated[str, typer.Argument()], limits: Limits, count: int = 1) -> None:
        """Says so."""
        seen.append((name, limits, count))

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, arguments), seen


def test_a_group_is_one_option_for_each_field():
    result, seen = invoke("a", "--most", "3", "--slow", "-i", "there", "--shown", "--count", "2")
    assert result.exit_code == 0
    assert seen == [("a", Limits(3, False, Path("there"), True), 2)]
    assert invoke("a", "--most", "3")[1] == [("a", Limits(3), 1)]


def test_a_field_without_default_is_required_and_the_help_stays():
    assert "Missing option '--most'" in invoke("a")[0].output
    assert "Says so." in invoke("--help")[0].output


def test_flags_bear_the_names_of_the_command_line_without_those_that_may_change():
    flags = chosen_flags(Limits(3, folder=Path("there")))
    assert flags == {"--most": 3, "--fast": None, "--into": "there"}
