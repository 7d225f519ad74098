"""A server on a free loopback port, in an event loop of its own thread, for tests that are plain functions."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from packages.server.tests.fake_engine import FakeEngine, FakeScheduler
from subquad.server import GenomicsClient
from subquad.server.hosting import GenomicsServer, ServerSettings
from subquad.server.service import ServedEngine

T = TypeVar("T")


class RunningServer:
    """Serves a fake engine, or a given one, for the length of a ``with`` block."""

    def __init__(self, scheduler: Any = None, engine: Any = None, *, serve: bool = True, **settings: Any) -> None:
        self.scheduler = scheduler if scheduler is not None else FakeScheduler()
        self.served = ServedEngine("tiny", engine if engine is not None else FakeEngine(), self.scheduler)
        self._serve = serve
        self._settings = ServerSettings(**({"bind": "127.0.0.1:0", "drain_seconds": 5.0} | settings))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._drained = False
        self.server: GenomicsServer

    @property
    def address(self) -> str:
        return self.server.address

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 20.0) -> T:
        """Runs a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def start(self, work: Coroutine[Any, Any, T]) -> Any:
        """Starts a coroutine in the server's loop and returns its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def client(self, **arguments: Any) -> GenomicsClient:
        return GenomicsClient(self.address, **({"timeout": 20.0} | arguments))

    def drain(self) -> None:
        self._drained = True
        self.run(self.server.drain())

    def __enter__(self) -> "RunningServer":
        self._thread.start()
        try:
            self.run(self._open())
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        return self

    async def _open(self) -> None:
        self.server = GenomicsServer(self._settings)
        await self.server.listen()
        if self._serve:
            await self.server.serve(self.served)

    def __exit__(self, *_: object) -> None:
        if not self._drained:
            self.drain()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Waits for a condition; returns how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "the condition did not come true in time"
        time.sleep(0.002)
    return time.monotonic() - start
