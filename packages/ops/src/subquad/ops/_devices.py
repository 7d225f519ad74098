"""Enters the device that a call's tensors lie on.

Triton, and the libraries that take addresses, start a kernel on the current device whatever its arguments lie on: on
a machine with several GPUs it would run on another one, which may not even reach their memory.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
X = TypeVar("X", bound=Tensor | tuple[Tensor, ...])


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
