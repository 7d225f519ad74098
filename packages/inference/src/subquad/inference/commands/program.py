"""Runs an application of commands as a program: what is wrong with its arguments is one line on stderr."""

import atexit
import re
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from subquad.inference.commands.failures import (
    FAILED,
    INTERRUPTED,
    escape_what_the_locale_lacks,
    interrupted,
    noted_interrupts,
    shortened,
)

_FRAMES = re.compile(r"^(Value error, )?(.* is not one of |Input should be )?|, unable to parse .*$|\.$", re.DOTALL)


def run_application(app: typer.Typer, name: str | None = None) -> None:
    """Runs an application to its exit, which Ctrl-C does not disturb any more.

    Args:
      app: The application.
      name: What it is called; None for the name that it was started by.
    """
    escape_what_the_locale_lacks()
    command = typer.main.get_command(app)
    command.make_context, command.invoke = _telling(command.make_context), _telling(command.invoke)
    try:
        with noted_interrupts():
            status = command.main(prog_name=name, standalone_mode=False)
    except typer.Abort:
        print("error: the input has ended", file=sys.stderr)
        status = FAILED
    except Exception as error:
        # Typer brings Click's errors under names that change with its version.
        status = getattr(error, "exit_code", None)
        if status is None or not hasattr(error, "format_message"):
            raise
        if type(error).__name__ != "NoArgsIsHelpError":  # the help has been printed
            print(f"error: {shortened(usage_problem(error))}", file=sys.stderr)
    if status == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    exec("")  # Python forgets that Ctrl-C ended a text that was run, as torch runs some: it would end by the signal
    sys.exit(status)


def _telling(call: Callable[..., Any]) -> Callable[..., Any]:
    """Ends a call by one line and the status 130 where Ctrl-C was pressed and nobody has told so."""

    @wraps(call)
    def telling(*arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except (KeyboardInterrupt, Exception) as error:
            if not isinstance(error, KeyboardInterrupt) and (hasattr(error, "exit_code") or not interrupted()):
                raise
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    return telling


def usage_problem(error: Any) -> str:
    """Returns what is wrong with arguments as one line: the option, its value, what is accepted, and where that stands.

    Args:
      error: What Click or Typer raised.
    """
    text = " ".join(error.format_message().split()).removesuffix(".")
    parameter, found = getattr(error, "param", None), getattr(error.__cause__, "errors", None)
    if parameter is not None and found is not None:  # refused by pydantic, whose words leave the value out
        option = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.display_name_raw
        first = found()[0]
        text = f"{option} is {str(first['input'])!r}; accepted: {_FRAMES.sub('', first['msg'])}"
    context = getattr(error, "ctx", None)
    return text if context is None else f"{text}; see `{context.command_path} --help`"
