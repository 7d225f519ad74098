"""A turn of histories into rings, or back, as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_rows import turn_ring
from subquad.ops.dispatch import runs_plainly


def _launch(source: Tensor, target: Tensor, position: Tensor, length: int, into_ring: bool) -> None:
    """Fills ``target`` from ``source``, both ``[batch, channel, past]`` with any strides."""
    turn_ring(source, target, position, length, into_ring)


turn_ring_cuda = torch.library.custom_op("subquad::turn_ring_cuda", mutates_args=("target",))(_launch)


@turn_ring_cuda.register_fake
def _(source, target, position, length, into_ring):
    return None


def turn(source: Tensor, target: Tensor, position: Tensor, length: int, into_ring: bool) -> None:
    """Does the same, past torch's dispatcher where nothing traces the call."""
    launch = turn_ring if runs_plainly(source) else torch.ops.subquad.turn_ring_cuda
    launch(source, target, position, length, into_ring)
