"""Differentiable messages between the ranks of one process group."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class AllToAll(torch.autograd.Function):
    """Block p of axis 0 goes to rank p; what comes back holds in block p what rank p sent. Its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_to_all(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _all_to_all(grad, ctx.group), None


class GatherRanks(torch.autograd.Function):
    """Stacks the tensors of all ranks on a new axis 0; backward sums what every rank wants of this rank's tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        gathered = x.new_empty(dist.get_world_size(group), *x.shape)
        dist.all_gather_into_tensor(gathered.flatten(), x.contiguous().flatten(), group=group)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A sum of all-to-all blocks is a reduce-scatter; unlike that it is offered by every backend and for every type.
        return _all_to_all(grad, ctx.group).sum(0), None


class ZigzagHalo(torch.autograd.Function):
    """Sends the tails of both runs to where they are needed and returns what precedes the two runs of this rank.

    The tail of the low run (chunk r) belongs in front of chunk r + 1, on the next rank; that of the high run (chunk
    2n - 1 - r) in front of chunk 2n - r, on the rank before. On the last rank the low run precedes its own high run.
    """

    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
        ctx.group = group
        from_before, from_after = _exchange_neighbours(to_after=low, to_before=high, group=group)
        if dist.get_rank(group) == dist.get_world_size(group) - 1:
            from_after = low.clone()
        return from_before, from_after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_low: Tensor, grad_high: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The gradient of what came from the rank before goes back there, and the other way round.
        own_high, own_low = _exchange_neighbours(to_after=grad_high, to_before=grad_low, group=ctx.group)
        if dist.get_rank(ctx.group) == dist.get_world_size(ctx.group) - 1:
            own_low = grad_high.clone()
        return own_low, own_high, None


def _all_to_all(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    sent = x.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return received


def _exchange_neighbours(*, to_after: Tensor, to_before: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Sends one tensor to the next rank and one to the rank before; returns what came from (before, after).

    Both have one shape; at the ends of the row of ranks nothing is sent, and zeros are returned.
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    ranks = dist.get_process_group_ranks(group)
    from_before, from_after = to_after.new_zeros(to_after.shape), to_after.new_zeros(to_after.shape)
    messages: list[dist.P2POp] = []
    if rank + 1 < size:
        messages.append(dist.P2POp(dist.isend, to_after.contiguous(), ranks[rank + 1], group))
        messages.append(dist.P2POp(dist.irecv, from_after, ranks[rank + 1], group))
    if rank > 0:
        messages.append(dist.P2POp(dist.irecv, from_before, ranks[rank - 1], group))
        messages.append(dist.P2POp(dist.isend, to_before.contiguous(), ranks[rank - 1], group))
    if messages:
        for request in dist.batch_isend_irecv(messages):
            request.wait()
    return from_before, from_after
