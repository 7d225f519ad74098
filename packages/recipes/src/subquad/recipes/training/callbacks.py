"""What happens beside the steps of a run: resume points, its course, the progress line."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from subquad.recipes._atomic import write_atomically
from subquad.recipes.training.metrics import Measurement, write_metrics
from subquad.recipes.training.module import LanguageModelTraining

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(Exception):
    """Leaves Lightning's loop after Ctrl-C or SIGTERM, once a resume point is written."""


class ResumePoint(pl.Callback):
    """Writes one resume point every few steps, at the end, and on Ctrl-C or SIGTERM.

    The first signal lets the running step end, saves and raises `StopRequested`; a second one breaks off at once and
    leaves the resume point before it. A signal to one process of several stops all of them behind the same step.
    `signal_number` is the first signal that came to this one, None before.
    """

    def __init__(self, path: Path, *, every: int, validate_every: int) -> None:
        self._path, self._every, self._validate_every = path, every, validate_every
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    @contextmanager
    def watching_interrupts(self) -> Iterator[None]:
        """Takes over Ctrl-C and SIGTERM for a while, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._previous = {number: signal.signal(number, self._on_interrupt) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            self._give_back()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes SIGTERM back from Lightning, which would end the process with status 0 and save nothing."""
        if self._previous and self.signal_number is None:
            signal.signal(signal.SIGTERM, self._on_interrupt)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if it is time to, or if Ctrl-C was pressed; a step that is measured is saved with its measurement."""
        if trainer.global_step % self._validate_every:
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves a step that was measured."""
        if trainer.state.fn == "fit":
            self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last step."""
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes the resume point, completely or not at all."""
        if trainer.is_global_zero:
            write_atomically(self._path, trainer.save_checkpoint)
        else:  # which takes part and writes nothing
            trainer.save_checkpoint(self._path)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        stopped = trainer.strategy.reduce_boolean_decision(self.signal_number is not None, all=False)
        if stopped or trainer.global_step % self._every == 0:
            self.save(trainer)
        if stopped:
            raise StopRequested

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = self.signal_number or number
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class CourseLog(pl.Callback):
    """Keeps the course of the run, writes it to `metrics.jsonl`, and travels inside resume points."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.course: list[Measurement] = []
        self._sum, self._count, self._seconds = 0.0, 0, 0.0
        self._since = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock; of an earlier part only what the resume point knows is kept."""
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the step to the mean of the next measurement."""
        assert isinstance(pl_module, LanguageModelTraining)
        self._sum, self._count = self._sum + pl_module.train_bits, self._count + 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes a measurement; what was measured before a run was resumed is not measured twice."""
        assert isinstance(pl_module, LanguageModelTraining)
        if self.course and self.course[-1].step == trainer.global_step:
            return
        rate = float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else 0.0
        mean = self._sum / self._count if self._count else pl_module.train_bits
        entry = Measurement(trainer.global_step, mean, pl_module.held_out_bits, rate, round(self.seconds, 3))
        self.course.append(entry)
        self._sum, self._count = 0.0, 0
        if trainer.is_global_zero:
            write_metrics(self._path, self.course)

    @property
    def seconds(self) -> float:
        """Time spent training, over all resumed parts."""
        return self._seconds + time.monotonic() - self._since

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers only, so that a resume point loads with `weights_only=True`."""
        course = [list(entry) for entry in self.course]
        return {"course": course, "sum": self._sum, "count": self._count, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a resume point."""
        self.course = [Measurement(*entry) for entry in state_dict["course"]]
        self._sum, self._count, self._seconds = state_dict["sum"], state_dict["count"], state_dict["seconds"]


class ProgressLine(pl.Callback):
    """A progress bar on a terminal, one line per validation elsewhere; both on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.description}"), console=self._console)
        self._task = self._bar.add_task("")
        self._moved = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the bar at the step the run stands at."""
        self._bar.update(self._task, total=trainer.max_steps, completed=trainer.global_step)
        if self._console.is_terminal and trainer.is_global_zero:
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        self._moved = True
        self._bar.update(self._task, completed=trainer.global_step, description=_described(pl_module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints a line where there is no bar."""
        if not self._console.is_terminal and trainer.is_global_zero and self._moved:
            self._console.print(
                f"step {trainer.global_step}/{trainer.max_steps}: {_described(pl_module)}", soft_wrap=True
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the bar down."""
        if self._bar.live.is_started:
            self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Takes the bar down."""
        if self._bar.live.is_started:
            self._bar.stop()


def _described(module: pl.LightningModule) -> str:
    assert isinstance(module, LanguageModelTraining)
    held_out = "" if module.held_out_bits != module.held_out_bits else f", held out {module.held_out_bits:.4f}"
    return f"training {module.train_bits:.4f}{held_out} bits per base"
