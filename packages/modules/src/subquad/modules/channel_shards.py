"""What a network asks for when its channels are dealt out to several ranks, and the answer for a single rank."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from subquad.modules.errors import ConfigurationError


@runtime_checkable
class ChannelShards(Protocol):
    """The ranks that share the layers of one network, each with its part of the channels, heads and inner units.

    Every rank holds the whole residual stream, the embedding and the norms. The linear in front of a mixer or of an
    MLP's gate makes the rows of the rank's own channels; that behind it gives a part of each output, and the outputs
    are the sums over the ranks. Rank 0 adds what must be added once: biases and the residual stream.
    """

    @property
    def size(self) -> int:
        """The number of ranks."""
        ...

    @property
    def rank(self) -> int:
        """This rank, ``0 <= rank < size``."""
        ...

    def total(self, part: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Returns the sum of ``part`` over the ranks, the same bits on each; ``part`` may be overwritten."""
        ...


class WholeChannels:
    """The shards of a network that lives on one rank: its part is the whole."""

    size: int = 1
    rank: int = 0

    def total(self, part: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Returns ``part``."""
        return part


def share_of(count: int, what: str, shards: ChannelShards) -> int:
    """Returns how many of ``count`` heads, filters or units this rank holds.

    Raises:
      ConfigurationError: There are none, or they cannot be dealt out evenly; names both numbers.
    """
    if count < 1:
        raise ConfigurationError(f"{count} {what}; accepted are 1 and more")
    if count % shards.size:
        raise ConfigurationError(
            f"{count} {what} cannot be dealt out to {shards.size} ranks evenly; accepted is a number of ranks that "
            f"divides {count}"
        )
    return count // shards.size
