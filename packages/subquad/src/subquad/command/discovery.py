"""Finds the packages that add commands to ``subquad``.

Our own packages are tried by name, so that the command works from source folders on ``PYTHONPATH`` without any
installed metadata. Third parties use the entry-point group ``subquad.commands``; each entry names a function that
takes the Typer application and adds its commands to it.
"""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import typer

COMMAND_PACKAGES = ("ops", "inference", "recipes", "server", "quickstart")
ENTRY_POINT_GROUP = "subquad.commands"


@dataclass(frozen=True)
class Registration:
    """One package's commands: who offers them and how to add them to an application."""

    origin: str
    register: Callable[[typer.Typer], None]


def find_registrations(third_party: Iterable[EntryPoint] | None = None) -> tuple[list[Registration], list[str]]:
    """Finds every ``register`` function that is installed.

    Args:
      third_party: Entry points to consider; default: those installed in ``subquad.commands``.

    Returns:
      The registrations, ours first and then third parties by name, and one line for each third-party entry
      that could not be loaded.
    """
    found = [Registration(f"subquad.{name}", register) for name in COMMAND_PACKAGES if (register := _own(name))]
    problems = []
    entries = entry_points(group=ENTRY_POINT_GROUP) if third_party is None else third_party
    for entry in sorted(entries, key=lambda entry: entry.name):
        try:
            found.append(Registration(entry.value, entry.load()))
        except Exception as error:  # a broken plug-in must not take the command away
            problems.append(f"commands of {entry.name} ({entry.value}) are left out: {type(error).__name__}: {error}")
    return found, problems


def _own(name: str) -> Callable[[typer.Typer], None] | None:
    """The ``register`` function of one of our packages, or None where that package is not installed.

    The package itself is not run, only its ``commands``: a library such as ``subquad.ops`` imports torch at once.
    """
    package = importlib.util.find_spec(f"subquad.{name}")
    for folder in (package.submodule_search_locations if package else None) or ():
        for path in (Path(folder, "commands.py"), Path(folder, "commands", "__init__.py")):
            if path.is_file():
                spec = importlib.util.spec_from_file_location(f"subquad.{name}.commands", path)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module.register
    return None
