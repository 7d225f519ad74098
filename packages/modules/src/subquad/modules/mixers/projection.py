"""The short convolution in front of a Hyena mixer: its taps, its ring, and the filter sizes that fit together."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError


def check_filters(channels: int, groups: int, filter_length: int, projection_filter_length: int | None) -> None:
    """Refuses filter sizes that no Hyena mixer can have.

    Raises:
      ConfigurationError: ``groups`` does not divide ``channels``, or a filter has fewer than 2 taps.
    """
    if channels < 1 or groups < 1 or channels % groups:
        raise ConfigurationError(
            f"{channels} channels cannot share {groups} filters evenly; groups must divide channels"
        )
    if filter_length < 2 or (projection_filter_length is not None and projection_filter_length < 2):
        raise ConfigurationError(
            f"filter lengths are {filter_length} and {projection_filter_length}; each must be at least 2"
        )


def projection_parameter(
    channels: int, length: int | None, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Parameter | None:
    """Returns uninitialised taps ``[3 * channels, length]`` of the projection convolution, or None without a length."""
    return None if length is None else nn.Parameter(torch.empty(3 * channels, length, device=device, dtype=dtype))


def projection_ring(
    taps: Tensor | None, batch_size: int, device: torch.device | str, dtype: torch.dtype
) -> Float[Tensor, "batch rows width"] | None:
    """Returns the empty ring of a projection convolution, or None where there is none."""
    return (
        None if taps is None else torch.zeros(batch_size, taps.shape[0], taps.shape[1] - 1, device=device, dtype=dtype)
    )
