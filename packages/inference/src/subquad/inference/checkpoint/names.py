"""Tensor names, shapes and orientation on disk against those in memory.

Disk is the layout of the published Vortex files: short filters are correlations (the last tap multiplies the current
sample) of shape ``[rows, 1, taps]``, medium filters are convolutions of that shape, poles are ``[channel, state, 1]``.
In memory every filter is a convolution ``[rows, taps]`` whose tap 0 multiplies the current sample, and poles are
``[channel, state]``. All other tensors are the same. This is the one file that flips anything.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

from torch import Tensor


class TensorRule(NamedTuple):
    """How one tensor of a layer is written and read.

    Attributes:
      memory: End of the name in memory.
      disk: End of the name on disk.
      to_disk: Makes the disk tensor of the one in memory.
      to_memory: The inverse.
    """

    memory: str
    disk: str
    to_disk: Callable[[Tensor], Tensor]
    to_memory: Callable[[Tensor], Tensor]


def _flipped_to_disk(taps: Tensor) -> Tensor:
    return taps.flip(-1)[:, None, :]


def _flipped_to_memory(taps: Tensor) -> Tensor:
    return taps[:, 0, :].flip(-1)


def _plain_to_disk(taps: Tensor) -> Tensor:
    return taps[:, None, :]


def _plain_to_memory(taps: Tensor) -> Tensor:
    return taps[:, 0, :]


def _last_axis_to_disk(poles: Tensor) -> Tensor:
    return poles[..., None]


def _last_axis_to_memory(poles: Tensor) -> Tensor:
    return poles[..., 0]


def _same(tensor: Tensor) -> Tensor:
    return tensor


PROJECTION = TensorRule("filter.projection_taps", "filter.short_filter_weight", _flipped_to_disk, _flipped_to_memory)
SHORT = TensorRule("filter.taps", "filter.h", _flipped_to_disk, _flipped_to_memory)
MEDIUM = TensorRule("filter.taps", "filter.h", _plain_to_disk, _plain_to_memory)
POLES = TensorRule("filter.log_poles", "filter.log_poles", _last_axis_to_disk, _last_axis_to_memory)
UNCHANGED = TensorRule("", "", _same, _same)

FULL_PRECISION = ("filter.log_poles", "filter.residues", "filter.p", "filter.gamma", "rotary_emb.inv_freq")


def rule_of(name: str, names: Collection[str]) -> TensorRule:
    """Returns the rule of the tensor ``name`` of a network that has the tensors ``names``, all as in memory.

    A layer with ``filter.taps`` and a skip ``filter.D`` is a medium one; without the skip it is a short one.
    """
    for rule in (PROJECTION, POLES):
        if name.endswith("." + rule.memory):
            return rule
    if name.endswith("." + SHORT.memory):
        layer = name.removesuffix(SHORT.memory)
        return MEDIUM if f"{layer}filter.D" in names else SHORT
    return UNCHANGED


def disk_name(name: str, rule: TensorRule) -> str:
    """Returns the name on disk of the tensor ``name``."""
    return name.removesuffix(rule.memory) + rule.disk if rule.memory else name
