"""What can be wrong with a parallel set-up; every error says what was got and what is accepted."""


class ParallelError(Exception):
    """Base of every error that this package raises on purpose."""


class MissingExtraError(ParallelError, ImportError):
    """A library that only an extra of this package brings is not installed, or has an unusable version."""

    def __init__(self, feature: str, extra: str, problem: str) -> None:
        super().__init__(f"{feature} needs the extra [{extra}]: {problem}; pip install 'subquad-parallel[{extra}]'")
        self.feature = feature
        self.extra = extra


class ParallelSizeError(ParallelError, ValueError):
    """The numbers of ranks asked for do not fit each other, the processes, or what was set up before."""


class SplitShapeError(ParallelError, ValueError):
    """A tensor cannot be dealt out to the ranks: an axis is not a multiple of the number of shares."""
