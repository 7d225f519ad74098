"""Progress of reading and writing on stderr: bytes, bytes a second, time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
