"""Asks again where no server could answer: how often, after which pauses, and within which time.

gRPC can retry by itself, but its core (1.85) loses a call whose first attempt a server refused and whose last one finds
no server: the call never ends, whatever its deadline. So the service config asks for no retries, and the clients do it.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import grpc

ATTEMPTS = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds; each pause is twice the one before, give or take a fifth


class Attempts:
    """The attempts of one call, all within its timeout.

    Args:
      start: Starts the call with the seconds that it may take, None for no limit.
      timeout: Seconds for all attempts together; None leaves it to the server.
    """

    def __init__(self, start: Callable[[float | None], Any], timeout: float | None) -> None:
        self._start = start
        self._until = None if timeout is None else time.monotonic() + timeout
        self._made = 0

    def begin(self) -> Any:
        """Starts the next attempt and returns what gRPC returns."""
        self._made += 1
        return self._start(self._left())

    def pause_after(self, error: grpc.RpcError) -> float | None:
        """Returns the seconds to wait before the next attempt, or None where `error` is the answer.

        Only UNAVAILABLE is asked again: the server has not begun to answer, or could not be reached.
        """
        call: Any = error
        if call.code() is not grpc.StatusCode.UNAVAILABLE or self._made >= ATTEMPTS:
            return None
        pause = min(FIRST_PAUSE * 2 ** (self._made - 1), LONGEST_PAUSE) * random.uniform(0.8, 1.2)
        left = self._left()
        return pause if left is None or pause < left else None

    def _left(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())


def answer(attempts: Attempts) -> Any:
    """Returns the answer of a call with one answer.

    Raises:
      grpc.RpcError: That of the last attempt.
    """
    while True:
        try:
            return attempts.begin()
        except grpc.RpcError as error:
            pause = attempts.pause_after(error)
            if pause is None:
                raise
        time.sleep(pause)
