"""Keeps automatic mixed precision out of the operators, which say themselves what they sum in which type.

Under ``torch.autocast`` the products inside an operator would be cast to 16 bits behind its back, and a gradient would
come back in another type than the filter it belongs to. The operators' inputs and outputs keep their types: what
autocast has made bfloat16 before the call is filtered with float32 sums and returned as bfloat16.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(compute: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Runs a function with autocast off on the device of its first argument."""

    @wraps(compute)
    def run(stream: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        if stream.is_meta or not torch.is_autocast_enabled(stream.device.type):
            return compute(stream, *args, **kwargs)
        with torch.autocast(stream.device.type, enabled=False):
            return compute(stream, *args, **kwargs)

    return run
