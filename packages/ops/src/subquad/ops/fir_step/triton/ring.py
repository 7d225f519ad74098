"""A turn of histories into rings, or back, as a torch custom operator over a Triton kernel."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads the kernel, not Python's: its types are not what the annotations of its module say.

import torch
import triton
import triton.language as tl
from torch import Tensor

from subquad.ops._devices import on_its_device
from subquad.ops.dispatch import runs_plainly

_TILE = 1024  # samples a program


@triton.jit
def turn_kernel(
    source, target, position, length, channels, past,
    source_batch, source_channel, source_slot, target_batch, target_channel, target_slot,
    INTO_RING: tl.constexpr, CHANNELS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Copies sample i of a history to, or from, slot ``(position + length + i) % past``."""
    batch = tl.program_id(0).to(tl.int64)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)
    sample = tl.arange(0, SLOTS)
    slot = ((tl.load(position + batch) + length + sample) % past).to(tl.int64)
    present = (channel < channels)[:, None] & (sample < past)[None, :]
    read, write = slot, slot
    if INTO_RING:
        read = sample.to(tl.int64)
    else:
        write = sample.to(tl.int64)
    at = batch * source_batch + (channel * source_channel)[:, None] + (read * source_slot)[None, :]
    value = tl.load(source + at, mask=present, other=0.0)
    at = batch * target_batch + (channel * target_channel)[:, None] + (write * target_slot)[None, :]
    tl.store(target + at, value.to(target.dtype.element_ty), mask=present)


def _launch(source: Tensor, target: Tensor, position: Tensor, length: int, into_ring: bool) -> None:
    """Fills ``target`` from ``source``, both ``[batch, channel, past]`` with any strides."""
    batch, channels, past = source.shape
    slots = int(triton.next_power_of_2(past))
    width = max(1, min(_TILE // slots, int(triton.next_power_of_2(channels))))
    turn_kernel[(batch, triton.cdiv(channels, width))](  # a grid is 65,535 long along all axes but the first
        source,
        target,
        position,
        length,
        channels,
        past,
        *source.stride(),
        *target.stride(),
        INTO_RING=into_ring,
        CHANNELS=width,
        SLOTS=slots,
        num_warps=4,
    )


turn_ring_triton = torch.library.custom_op("subquad::turn_ring_triton", mutates_args=("target",))(_launch)


@turn_ring_triton.register_fake
def _(source, target, position, length, into_ring):
    return None


@on_its_device
def turn(source: Tensor, target: Tensor, position: Tensor, length: int, into_ring: bool) -> None:
    """Does the same, past torch's dispatcher where nothing traces the call."""
    launch = _launch if runs_plainly(source) else torch.ops.subquad.turn_ring_triton
    launch(source, target, position, length, into_ring)
