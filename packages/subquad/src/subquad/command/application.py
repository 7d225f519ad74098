"""Builds the Typer application from the registrations and runs it."""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from subquad.command.discovery import Registration, find_registrations
from subquad.inference.commands.program import run_application

_DISTRIBUTIONS = ("lazy-config", "ops", "modules", "parallel", "inference", "recipes", "server")


def build_application(registrations: list[Registration]) -> typer.Typer:
    """Builds the ``subquad`` application that offers the commands of ``registrations``."""
    application = typer.Typer(
        name="subquad",
        help="Sequence models that do not pay the quadratic price: train, generate, score and serve.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )

    @application.callback()
    def options(
        show_versions: Annotated[
            bool,
            typer.Option(
                "--version",
                help="Print the version of every installed package and exit.",
                is_eager=True,
                callback=_print_versions,
            ),
        ] = False,
    ) -> None:
        """Takes the options that stand before the command."""

    for registration in registrations:
        registration.register(application)
    return application


def _print_versions(wanted: bool) -> bool:
    if wanted:
        for line in installed_versions():
            typer.echo(line)
        raise typer.Exit
    return wanted


def installed_versions() -> list[str]:
    """One line for each of our distributions: its name and its version, or "not installed"."""
    lines = []
    for distribution in ("subquad", *(f"subquad-{name}" for name in _DISTRIBUTIONS)):
        try:
            lines.append(f"{distribution} {version(distribution)}")
        except PackageNotFoundError:
            lines.append(f"{distribution} (running from source, or not installed)")
    return lines


def main() -> None:
    """Runs the ``subquad`` command."""
    registrations, problems = find_registrations()
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    run_application(build_application(registrations))
