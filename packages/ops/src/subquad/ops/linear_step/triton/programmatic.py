"""Programmatic dependent launch: a decode kernel starts, and reads its weights, while the one before it still runs."""

from collections.abc import Mapping

import torch

from subquad.ops._capability import capability
from subquad.ops._triton_backend import interpreting

_FIRST_CAPABILITY = (9, 0)
_OFF: Mapping[str, bool] = {"DEPENDENT": False}
_ON: Mapping[str, bool] = {"DEPENDENT": True, "launch_pdl": True}


def dependent_launch() -> Mapping[str, bool]:
    """Returns the launch options of every decode kernel: waits and starts early where the current GPU can."""
    return _OFF if interpreting() or capability(torch.cuda.current_device()) < _FIRST_CAPABILITY else _ON
