"""What differs between the supported versions of megatron-core, in one place.

0.16.1 is the last one for Python 3.11; Python 3.12 gets 0.19.2 or later.
"""

import importlib
import inspect
from types import ModuleType
from typing import Any

import torch.distributed as dist
from torch import Tensor

from subquad.parallel.errors import MissingExtraError

_FEATURE = "megatron-core"


def parallel_state() -> ModuleType:
    """Imports `megatron.core.parallel_state`.

    Raises:
      MissingExtraError: megatron-core is absent, or triton, which it needs from 0.18 on but does not declare.
    """
    return _import("megatron.core.parallel_state")


def batch_on_this_rank(batch: dict[str, Tensor], group: dist.ProcessGroup) -> dict[str, Tensor]:
    """Has megatron-core take this rank's share of a batch along axis 1; our order is checked against it."""
    function = _import("megatron.core.utils").get_batch_on_this_cp_rank
    accepted = inspect.signature(function).parameters
    options: dict[str, Any] = {"cp_group": group, "is_hybrid_cp": False}
    return function(batch, **{name: value for name, value in options.items() if name in accepted})


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(_FEATURE, "megatron", f"{error}") from error
