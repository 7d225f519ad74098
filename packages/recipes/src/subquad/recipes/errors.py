"""What can be wrong with a recipe's input: every error names the file or field, what was got and what is accepted."""

import signal
from pathlib import Path


class RecipeError(Exception):
    """Anything that the user of a recipe can put right."""


class MissingFileError(RecipeError, FileNotFoundError):
    """A file that a recipe was told to read does not exist."""

    def __init__(self, path: str | Path, *, what: str) -> None:
        super().__init__(f"{path}: no such {what}")
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.args[0])


class FastaError(RecipeError, ValueError):
    """A file cannot be read as FASTA; `path` and `line` (from 1, or None) say where."""

    def __init__(self, path: str | Path, line: int | None, message: str) -> None:
        place = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{place}: {message}")
        self.path = Path(path)
        self.line = line


class EmptyFastaError(FastaError):
    """The file holds no record, or a record holds no base."""


class NotFastaError(FastaError):
    """The file does not start with a `>` line."""


class NonAsciiError(FastaError):
    """A byte above 127 stands among the bases."""


class NonUtf8Error(FastaError):
    """A title line holds bytes that are no UTF-8 text."""


class TruncatedGzipError(FastaError):
    """The gzip stream ends early or is damaged."""


class BadCharacterError(FastaError):
    """A sequence line holds a character outside the accepted alphabet."""

    def __init__(self, path: str | Path, line: int, character: str, accepted: str) -> None:
        super().__init__(path, line, f"character {character!r} is not accepted in a sequence; accepted are {accepted}")
        self.character = character
        self.accepted = accepted


class SettingError(RecipeError, ValueError):
    """A setting of a recipe has a value outside its range."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field}: got {value!r}; accepted is {accepted}")
        self.field = field
        self.value = value
        self.accepted = accepted


class SplitError(RecipeError, ValueError):
    """The sequences are too few or too short for the training and held-out parts asked for."""


class OutputExistsError(RecipeError, FileExistsError):
    """The output folder already holds a run and `resume` was not asked for."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(f"{path}: already holds a run; give another folder, or resume it (--resume)")
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.args[0])


class ResumeError(RecipeError, ValueError):
    """A run cannot be resumed: nothing was saved, or it was another configuration."""


class AdapterError(RecipeError, ValueError):
    """A file is no adapter, is damaged, or does not fit the network that it names."""


class AdapterBaseError(RecipeError, ValueError):
    """An adapter, or a run that trains one, meets another checkpoint than the one it corrects, or none."""


class TrainingDiverged(RecipeError, ArithmeticError):
    """The loss or a gradient is infinite or no number; the resume point is that of an earlier step."""

    def __init__(self, step: int, what: str, value: float, learning_rate: float) -> None:
        super().__init__(
            f"step {step}: the {what} is {value}; accepted is a finite number. Nothing of this step was kept; train "
            f"anew with a lower optimizer.learning_rate (at this step {learning_rate:g}), a lower optimizer.clip or "
            "more optimizer.warmup_steps"
        )
        self.step = step


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM (`signal_number`) after a resume point was written to `checkpoint`."""

    def __init__(self, checkpoint: Path, step: int, signal_number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped after step {step}; go on with --resume ({checkpoint})")
        self.checkpoint = checkpoint
        self.step = step
        self.signal_number = signal_number
