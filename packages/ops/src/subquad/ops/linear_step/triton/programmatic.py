"""Programmatic dependent launch: a decode kernel starts, and reads its weights, while the one before it still runs."""

from collections.abc import Mapping

import torch

from subquad.ops._capability import capability
from subquad.ops._triton_backend import interpreting

_FIRST_CAPABILITY = (9, 0)
_OFF: Mapping[str, bool] = {"DEPENDENT": False}
_ON: Mapping[str, bool] = {"DEPENDENT": True, "launch_pdl": True}


def dependent_launch() -> Mapping[str, bool]:
    """Returns the launch options of every decode kernel: waits and starts early where the GPU can and records a graph.

    Weights are read early, so the kernel in front must not write them, as none of a network does; a call by itself may
    follow whatever made its weights.
    """
    can = not interpreting() and capability(torch.cuda.current_device()) >= _FIRST_CAPABILITY
    return _ON if can and torch.cuda.is_current_stream_capturing() else _OFF
