"""Programmatic dependent launch: a decode kernel starts, and reads its weights, while the one before it still runs."""

from functools import cache

import torch

from subquad.ops._triton_backend import interpreting

_FIRST_CAPABILITY = (9, 0)


@cache
def dependent_launch() -> dict[str, bool]:
    """Returns the launch options of every decode kernel: waits and starts early where the GPU can."""
    if interpreting() or torch.cuda.get_device_capability() < _FIRST_CAPABILITY:
        return {"DEPENDENT": False}
    return {"DEPENDENT": True, "launch_pdl": True}
