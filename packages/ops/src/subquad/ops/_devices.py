"""Enters the device that a call's tensors lie on, and says what it can.

Triton, and the libraries that take addresses, start a kernel on the current device whatever its arguments lie on: on
a machine with several GPUs it would run on another one, which may not even reach their memory.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
X = TypeVar("X", bound=Tensor | tuple[Tensor, ...])


@runtime_checkable
class _Call(Protocol):
    """What is asked of a ``Call`` here."""

    @property
    def device(self) -> str: ...

    @property
    def index(self) -> int: ...


C = TypeVar("C", bound=_Call)


def on_its_device(run: Callable[Concatenate[X, P], R]) -> Callable[Concatenate[X, P], R]:
    """Runs a function with the device of its first argument as the current one: a tensor, or a tuple of some."""

    @wraps(run)
    def entered(first: X, *others: P.args, **options: P.kwargs) -> R:
        x = first[0] if isinstance(first, tuple) else first
        # to enter a device costs microseconds, to ask for the current one half of one; compiled code enters it itself
        if not x.is_cuda or torch.compiler.is_compiling() or x.get_device() == torch.cuda.current_device():
            return run(first, *others, **options)
        with torch.cuda.device(x.device):
            return run(first, *others, **options)

    return entered


@torch.compiler.assume_constant_result
def capability(index: int) -> tuple[int, int]:
    """Returns the compute capability of a CUDA device; the devices of one machine need not be alike."""
    return _capability(index)


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@torch.compiler.assume_constant_result
def _several() -> bool:
    return torch.cuda.device_count() > 1


def on_each_device(
    device_refusal: Callable[[int], str | None], refusal: Callable[[C], str | None]
) -> Callable[[C], str | None]:
    """Returns a refusal of calls that asks the device of each too, where a machine has several."""
    if not _several():
        return refusal  # ``none_usable`` has asked the only one

    def refused(call: C) -> str | None:
        return refusal(call) or (device_refusal(call.index) if call.device == "cuda" else None)

    return refused


def none_usable(refusal: Callable[[int], str | None]) -> str | None:
    """Says why no CUDA device of this machine is usable, by the first one; None where one is, or calls will tell."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    refusals = [refusal(index) for index in range(torch.cuda.device_count())]
    return None if None in refusals else refusals[0]
