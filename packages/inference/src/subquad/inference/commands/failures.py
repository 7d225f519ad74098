"""How a command ends by an error: one line on stderr and an exit status; a traceback only where asked for."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
LONGEST_TEXT = 2000


@contextmanager
def one_line_errors(*, traceback: bool) -> Iterator[None]:
    """Ends the command with ``error: …``: status 2 for bad input (every ValueError of ours), 130 for Ctrl-C, else 1."""
    _hold_standard_streams()
    escape_what_the_locale_lacks()
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        if traceback:
            raise
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output has gone; there is nobody to tell
        _give_up_output()
        raise typer.Exit(FAILED) from None
    except Exception as error:
        if traceback:
            raise
        if interrupted():
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        ours = type(error).__module__.startswith("subquad.")
        text = str(error) if ours or isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        print(f"error: {shortened(' '.join(text.split()))}", file=sys.stderr)
        _give_up_output()
        raise typer.Exit(BAD_INPUT if ours and isinstance(error, ValueError) else FAILED) from None


class _NotedInterrupt:
    """Does what Python does at Ctrl-C, and keeps that it was pressed."""

    pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.default_int_handler(number, frame)


@contextmanager
def noted_interrupts() -> Iterator[None]:
    """Lets `interrupted` tell inside the block, where nobody else has taken the place of Python's own handler."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _NotedInterrupt())
    try:
        yield
    finally:
        if isinstance(signal.getsignal(signal.SIGINT), _NotedInterrupt):
            signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted() -> bool:
    """Says whether Ctrl-C was pressed: a module whose import it cuts off may raise anything in its place."""
    handler = signal.getsignal(signal.SIGINT)
    return isinstance(handler, _NotedInterrupt) and handler.pressed


def shortened(text: str) -> str:
    """Leaves out the middle of a text with a name of thousands of letters; what is wrong stands at its end."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT // 2]} ... {text[-LONGEST_TEXT // 2 :]}"


def escape_what_the_locale_lacks() -> None:
    """Shows a character that the encoding of the standard output lacks as its number, instead of ending by an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """Drops what cannot be written: Python tries it once more at its end, and would add a text and the status 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hold_standard_streams() -> None:
    """Takes the places of standard streams that the caller has closed, so that no file of ours comes to be one of them.

    Reading and writing fail there; what is told on stderr is dropped.
    """
    for number, name, way in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_RDWR)):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, way)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
