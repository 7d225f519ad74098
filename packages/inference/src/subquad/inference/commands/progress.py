"""Progress on stderr: records, tokens, tokens a second and time of a job; bytes and time of a conversion."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Counts what was done."""

    def __call__(self, *, records: int, tokens: int) -> None:
        """Adds records and tokens."""
        ...


@contextmanager
def shown_progress(title: str, *, show: bool | None) -> Iterator[Advance]:
    """Gives a function that counts records and tokens and shows them; ``show=None`` shows them on a terminal only."""
    if not (sys.stderr.isatty() if show is None else show):
        yield _count_nothing
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn(title),
        TextColumn("{task.fields[records]} records"),
        TextColumn("{task.completed:.0f} tokens"),
        TextColumn("{task.fields[rate]:.0f} tokens/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, records=0, rate=0.0)
        done = 0

        def advance(*, records: int, tokens: int) -> None:
            nonlocal done
            done += records
            bar.update(task, advance=tokens, records=done)
            state = bar.tasks[0]
            bar.update(task, rate=state.completed / state.elapsed if state.elapsed else 0.0)

        yield advance


@contextmanager
def shown_bytes(title: str, *, show: bool | None) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of bytes done and bytes in all, and shows them; ``show=None`` shows them on a terminal only."""
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _count_nothing(*, records: int, tokens: int) -> None:
    return None
