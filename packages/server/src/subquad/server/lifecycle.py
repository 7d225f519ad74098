"""The life of a serving process: listen, load, announce, wait for a signal, drain."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from subquad.server.hosting import GenomicsServer, ServerSettings
from subquad.server.service import ServedEngine

SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run_server(
    settings: ServerSettings, load: Callable[[], ServedEngine], announce: Callable[[GenomicsServer], None]
) -> int:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.

    Args:
      settings: How to listen.
      load: Loads the engine and starts its scheduler; runs in a thread, while health says NOT_SERVING.
      announce: Called once the server is serving.

    Returns:
      The exit status: 0 after a drain, 1 where the engine died.

    Raises:
      ListenError: The address cannot be listened on.
      SettingsError: The settings cannot be used.
      Exception: Whatever `load` raised.
    """
    server = GenomicsServer(settings)
    await server.listen()
    try:
        with _stop_signals() as stopped:
            served = await _first(_in_thread(load), stopped)
            if isinstance(served, ServedEngine):
                await server.serve(served)
                announce(server)
                failed = asyncio.create_task(server.wait_for_engine_failure())
                await asyncio.wait([stopped, failed], return_when=asyncio.FIRST_COMPLETED)
                failed.cancel()
            await server.drain()
    except BaseException:
        await server.drain()
        raise
    return 1 if server.engine_failed else 0


@contextmanager
def _stop_signals() -> Iterator[asyncio.Future[None]]:
    """A future that the first signal completes; the second one exits with 128 + its number."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop(number: int) -> None:
        if stopped.done():
            os._exit(128 + number)
        stopped.set_result(None)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        yield stopped
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def _in_thread(load: Callable[[], ServedEngine]) -> "asyncio.Future[ServedEngine]":
    """Runs `load` in a thread that does not hold up the end of the process, as a pool's thread would."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[ServedEngine] = loop.create_future()

    def settle(result: ServedEngine | None, error: BaseException | None) -> None:
        if loaded.cancelled():
            return
        if error is not None:
            loaded.set_exception(error)
        elif result is not None:
            loaded.set_result(result)

    def work() -> None:
        try:
            result, error = load(), None
        except BaseException as raised:
            result, error = None, raised
        loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="subquad-load", daemon=True).start()
    return loaded


async def _first(loaded: "asyncio.Future[ServedEngine]", stopped: "asyncio.Future[None]") -> ServedEngine | None:
    """The engine, or None where the signal came first."""
    await asyncio.wait([loaded, stopped], return_when=asyncio.FIRST_COMPLETED)
    if loaded.done():
        return loaded.result()
    loaded.cancel()
    return None
