"""What CUDA devices can; those of one machine need not be alike.

Only backends import this: what tells torch.compile that an answer does not change imports the compiler.
"""

from collections.abc import Callable
from functools import cache

import torch

from subquad.ops.dispatch import Call


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
    device_refusal: Callable[[int], str | None], refusal: Callable[[Call], str | None]
) -> Callable[[Call], str | None]:
    """Returns a refusal of calls that asks the device of each too, where a machine has several."""
    if not _several():
        return refusal  # ``none_usable`` has asked the only one

    def refused(call: Call) -> str | None:
        return refusal(call) or (device_refusal(call.index) if call.device == "cuda" else None)

    return refused


def none_usable(refusal: Callable[[int], str | None]) -> str | None:
    """Says why no CUDA device of this machine is usable, by the first one; None where one is, or calls will tell."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    refusals = [refusal(index) for index in range(torch.cuda.device_count())]
    return None if None in refusals else refusals[0]
