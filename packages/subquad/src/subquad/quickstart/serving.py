"""Runs ``subquad serve`` as a child process for the length of a ``with`` block."""

import contextlib
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from subquad.quickstart.errors import ServerDidNotStart

_READY = re.compile(r"^serving \S+ on (\S+:\d+)\s*$", re.MULTILINE)


@contextlib.contextmanager
def server_process(checkpoint: Path, *, start_seconds: float = 60.0, stop_seconds: float = 10.0) -> Iterator[str]:
    """Serves ``checkpoint`` on a free loopback port and yields its ``HOST:PORT``.

    The child is told to stop when the block ends, however it ends, and killed if it does not.

    Raises:
      ServerDidNotStart: The process ended or did not say that it serves within ``start_seconds``; with its output.
    """
    command = [sys.executable, "-m", "subquad.server", "serve", str(checkpoint), "--bind", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
    try:
        yield _wait_until_ready(process, start_seconds)
    finally:
        process.terminate()
        try:
            process.wait(stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _wait_until_ready(process: subprocess.Popen[str], seconds: float) -> str:
    """Reads the child's output until it names its address."""
    assert process.stdout is not None
    seen = ""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                break
            line = process.stdout.readline()
            if not line:
                raise ServerDidNotStart(f"the server ended with status {process.wait()} and said: {seen.strip()}")
            seen += line
            if match := _READY.search(seen):
                return match[1]
    raise ServerDidNotStart(f"the server did not answer within {seconds:.0f} s and said: {seen.strip() or 'nothing'}")
