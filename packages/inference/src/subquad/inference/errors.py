"""The errors of subquad.inference: each says what was got, what is accepted and, where there is one, the way out."""

__all__ = [
    "CheckpointConfigError",
    "CheckpointError",
    "CheckpointExists",
    "CheckpointHashMismatch",
    "CheckpointNotFound",
    "CheckpointTensorError",
    "EngineStopped",
    "FP8Unavailable",
    "HubUnavailable",
    "InferenceError",
    "InputFileError",
    "InsufficientMemory",
    "InvalidOption",
    "InvalidSequence",
    "MissingPackage",
    "NonFiniteActivations",
    "NonFiniteLogits",
    "OutputError",
    "QueueFull",
    "RequestCancelled",
    "RequestTooLarge",
    "SchedulerClosed",
    "StepFailed",
    "UnencodableCharacter",
    "WorkerFailed",
]

COST_OF_EXACT_SUMS = "loss in nats a base: 40b 1.79 instead of 0.92"
COST_WITHOUT_FP8 = "loss in nats a base: 1b_base 1.2435 instead of 1.0765, 40b 1.70 instead of 0.92, 7b none"


class InferenceError(Exception):
    """The common base of every error that this package raises on purpose."""


class InvalidOption(InferenceError, ValueError):
    """A setting lies outside its range."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        self.field, self.value, self.accepted = field, value, accepted
        super().__init__(f"{field} is {value!r}; accepted: {accepted}")


class InvalidSequence(InferenceError, ValueError):
    """A prompt or a sequence cannot be used; ``field`` names it, e.g. ``prompts[3]``."""

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field} {problem}")


class UnencodableCharacter(InvalidSequence):
    """A text holds a character that has no token."""

    def __init__(self, field: str, character: str, position: int) -> None:
        self.character, self.position = character, position
        name = f"{character!r} (U+{ord(character):04X})"
        super().__init__(field, f"has the character {name} at position {position}; accepted: ASCII, one byte a token")


class RequestTooLarge(InferenceError, ValueError):
    """A request can never fit, whatever else runs; ``got`` and ``limit`` hold both numbers."""

    def __init__(self, field: str, got: int, limit: int, unit: str) -> None:
        self.field, self.got, self.limit, self.unit = field, got, limit, unit
        super().__init__(f"{field} has {got} {unit}; at most {limit} are accepted")


class InsufficientMemory(InferenceError, ValueError):
    """The state of a sequence does not fit into what is free; ``needed`` and ``free`` are bytes."""

    def __init__(self, field: str, tokens: int, needed: int, free: int, device: str) -> None:
        self.field, self.tokens, self.needed, self.free, self.device = field, tokens, needed, free, device
        super().__init__(
            f"{field}: {tokens} tokens need {_size(needed)} for their state, {_size(free)} are free on {device}; "
            "shorten the sequence, read fewer side by side, or use another device"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"


class MissingPackage(InferenceError, ValueError):
    """What was asked for needs a package that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f'{what} needs {package}, which is not installed; pip install "subquad-inference[{extra}]"')


class NonFiniteActivations(InferenceError, ArithmeticError):
    """The network produced NaN or infinity inside, so that there is nothing to embed with."""

    def __init__(self, layer: str) -> None:
        super().__init__(f"the activations of {layer} are not finite; check the weights and try a wider dtype")


class NonFiniteLogits(InferenceError, ArithmeticError):
    """The network produced NaN or infinity, so that nothing can be sampled or scored from it."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the logits of {where} are not finite; check the weights and try a wider dtype")


class QueueFull(InferenceError, RuntimeError):
    """The waiting line holds as much as it may; try again later."""

    def __init__(self, what: str, waiting: int, limit: int) -> None:
        self.what, self.waiting, self.limit = what, waiting, limit
        super().__init__(f"the queue is full: {waiting} {what} would wait, at most {limit} may; try again later")


class RequestCancelled(InferenceError):
    """The caller cancelled the request."""

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class SchedulerClosed(InferenceError, RuntimeError):
    """The scheduler takes no more work, or was closed before the request ended."""


class EngineStopped(InferenceError, RuntimeError):
    """The engine thread ended by an error of its own; no request can be served any more."""


class StepFailed(InferenceError, RuntimeError):
    """A step of the network raised; only the requests of that step end."""


class WorkerFailed(InferenceError, RuntimeError):
    """A process that holds a part of the network has ended; the engine has to be loaded anew."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the tensor-parallel network has stopped: {problem}; load the engine again")


class InputFileError(InferenceError, ValueError):
    """An input file cannot be read; ``path`` and, where known, ``line`` say where."""

    def __init__(self, path: str, problem: str, *, line: int | None = None) -> None:
        self.path, self.line = path, line
        super().__init__(f"{path}{'' if line is None else f', line {line}'}: {problem}")


class OutputError(InferenceError, OSError):
    """Results cannot be written; ``path`` says where to. What was written before is kept, where there is a journal."""

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path} cannot be written: {problem}")


class CheckpointError(InferenceError, ValueError):
    """A checkpoint cannot be read or written."""


class CheckpointNotFound(CheckpointError):
    """The path holds no checkpoint of the expected format."""


class CheckpointExists(CheckpointError):
    """The target of a write exists already and may not be replaced."""


class CheckpointTensorError(CheckpointError):
    """A tensor is missing, unknown, or has another shape or type than the network needs."""


class CheckpointHashMismatch(CheckpointError):
    """A file's SHA-256 differs from the one written down when the checkpoint was saved."""


class FP8Unavailable(CheckpointError):
    """The network has FP8 projections, and the device adds 8-bit products in another way than it was trained with."""

    def __init__(self, got: str) -> None:
        super().__init__(
            f"the network has FP8 projections, which want a GPU of compute capability 9.0 (Hopper); {got}. "
            "--fp8-projections emulate, in Python fp8_projections='emulate', computes as that does, a hundred times "
            f"slower; exact rounds as FP8 does and adds exactly ({COST_OF_EXACT_SUMS}); "
            f"off does not round ({COST_WITHOUT_FP8})"
        )


class HubUnavailable(CheckpointError):
    """A hub cannot be reached or asked, or has no such repository."""


class CheckpointConfigError(CheckpointError):
    """``config.yaml`` or ``metadata.json`` is damaged, or names a class or field that is not accepted."""
