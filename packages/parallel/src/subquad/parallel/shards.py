"""The ranks that share the layers of one network, over a torch.distributed process group; and which part each loads."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from subquad.parallel.errors import ParallelError, SplitShapeError
from subquad.parallel.traffic import Traffic


class TensorShards:
    """Implements `ChannelShards` of `subquad.modules`: outputs of layers are summed over the ranks of `group`.

    It is made for inference: no gradient flows through a sum. All ranks must make the same calls in the same order.

    Attributes:
      group: The process group.
      traffic: The bytes of the tensors that were summed, and how many sums there were.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Takes the process group of the ranks that share a network, such as `ParallelState.tensor_group`."""
        self.group = group
        self.traffic = Traffic()
        self._size = dist.get_world_size(group)
        self._rank = dist.get_rank(group)

    @property
    def size(self) -> int:
        """Number of ranks that share the layers."""
        return self._size

    @property
    def rank(self) -> int:
        """This rank within the group."""
        return self._rank

    def total(self, part: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Returns the sum of `part` over the ranks, in its place where it is contiguous.

        Raises:
          ParallelError: A gradient was asked for.
        """
        if self._size == 1:
            return part
        if torch.is_grad_enabled() and part.requires_grad:
            raise ParallelError("no gradient flows through layers that ranks share; run them under torch.no_grad()")
        part = part.contiguous()
        self.traffic.add(part.numel() * part.element_size())
        dist.all_reduce(part, group=self.group)
        return part


def own_part(whole: Sequence[int], own: Sequence[int], *, rank: int) -> tuple[slice, ...]:
    """Returns where the part of a rank lies in a whole tensor: it is cut along the axes in which both shapes differ.

    Args:
      whole: Shape of the tensor of all ranks together.
      own: Shape of one rank's part.
      rank: Which rank.

    Raises:
      SplitShapeError: The shapes have different numbers of axes, or the part of this rank does not lie inside.
    """
    if len(whole) != len(own) or any((rank + 1) * b > a for a, b in zip(whole, own, strict=True) if a != b):
        raise SplitShapeError(f"a part {tuple(own)} of rank {rank} does not lie in a tensor {tuple(whole)}")
    return tuple(slice(None) if a == b else slice(rank * b, (rank + 1) * b) for a, b in zip(whole, own, strict=True))
