"""Options that belong together, each declared once, as a field of a dataclass that every command with it takes."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from typer.models import ParameterInfo


@dataclass(frozen=True)
class Changeable:
    """Marks an option that results do not depend on, so that a job may be resumed with another value of it."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command one option for each field of those of its parameters that are dataclasses.

    Args:
      command: A function whose parameters are arguments and options of Typer, or dataclasses of such.
    """
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            parameters.extend(_parameter(field) for field in fields(parameter.annotation))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def chosen_flags(*groups: Any) -> dict[str, Any]:
    """Returns the value of every flag of some groups that results depend on, as JSON can hold it."""
    found: dict[str, Any] = {}
    for group in groups:
        for field in fields(group):
            marks = getattr(field.type, "__metadata__", ())
            if not any(isinstance(mark, Changeable) for mark in marks):
                value = getattr(group, field.name)
                found[_flag(field.name, marks)] = str(value) if isinstance(value, Path) else value
    return found


def _parameter(field: "Field[Any]") -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.type)


def _flag(name: str, marks: tuple[Any, ...]) -> str:
    """Returns what the command line calls a field."""
    for mark in marks:
        if isinstance(mark, ParameterInfo):
            names = (mark.default, *(mark.param_decls or ()))
            if flag := next((n for n in names if isinstance(n, str) and n.startswith("--")), None):
                return flag.split("/")[0]
    return "--" + name.replace("_", "-")
