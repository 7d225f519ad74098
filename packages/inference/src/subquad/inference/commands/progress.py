"""Progress of a job on stderr: records, tokens, tokens a second, time, and time to go where the total is known."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Counts what was done."""

    def __call__(self, *, records: int, tokens: int, done_before: bool = False) -> None:
        """Adds records and tokens; those of an earlier run count as done, not as speed."""
        ...


class Rate:
    """Tokens a second of this run, and seconds to go.

    Args:
      total: Tokens of the whole job; None where that is not known.
      clock: Seconds.
    """

    def __init__(self, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self._worked = total, 0, 0
        self._clock, self._start = clock, clock()

    def add(self, tokens: int, *, done_before: bool) -> None:
        """Counts tokens."""
        self.done += tokens
        self._worked += 0 if done_before else tokens

    @property
    def per_second(self) -> float:
        """Tokens a second since the start."""
        elapsed = self._clock() - self._start
        return self._worked / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds to go at this speed; None where the total or the speed is not known."""
        if self.total is None or self.per_second == 0:
            return None
        return max(0, self.total - self.done) / self.per_second


@contextmanager
def shown_progress(title: str, *, show: bool | None, total: int | None = None) -> Iterator[Advance]:
    """Gives a function that counts records and tokens and shows them.

    Args:
      title: Name of the job.
      show: None shows on a terminal only.
      total: Tokens of the whole job, if known; there is a bar and a time to go then.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield _count_nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn(title),
        *(() if total is None else (BarColumn(), TextColumn("{task.percentage:.0f} %"))),
        TextColumn("{task.fields[records]} records"),
        TextColumn("{task.completed:.0f} tokens"),
        TextColumn("{task.fields[rate]:.0f} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    rate, count = Rate(total), 0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, records=0, rate=0.0, left="")

        def advance(*, records: int, tokens: int, done_before: bool = False) -> None:
            nonlocal count
            count += records
            rate.add(tokens, done_before=done_before)
            left = rate.seconds_left
            text = "" if left is None else f"ETA {_clock_text(left)}"
            bar.update(task, completed=rate.done, records=count, rate=rate.per_second, left=text)

        yield advance


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _count_nothing(*, records: int, tokens: int, done_before: bool = False) -> None:
    return None
