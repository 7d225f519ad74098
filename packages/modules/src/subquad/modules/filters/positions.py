"""Where the taps of an implicit filter lie: the one rule that every filter and envelope follows."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.modules.errors import ConfigurationError, InputMismatch


@dataclasses.dataclass(frozen=True)
class Span:
    """A range of integers whose ends a traced graph may not know, as ``range`` must."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


# One range of tap offsets an axis, in samples; offset 0 multiplies the current sample.
Offsets = tuple[range | Span, ...]


def per_axis(name: str, value: int | Sequence[int], data_dim: int, *, least: int) -> tuple[int, ...]:
    """Returns one integer an axis from one for all or one each.

    Raises:
      ConfigurationError: ``data_dim`` is not 1, 2 or 3, the counts disagree, or a value is below ``least``.
    """
    if data_dim not in (1, 2, 3):
        raise ConfigurationError(f"data_dim is {data_dim}; accepted are 1, 2 and 3")
    values = (value,) * data_dim if isinstance(value, int) else tuple(value)
    if len(values) != data_dim or min(values) < least:
        raise ConfigurationError(f"{name} is {value!r}; accepted are integers >= {least}, one or {data_dim} of them")
    return values


def filter_positions(
    offsets: Offsets, trained_reach: tuple[int, ...], device: torch.device | str | None, dtype: torch.dtype
) -> Float[Tensor, "*tap axis"]:
    """Computes the coordinates of taps: ``p = offset / (trained_reach - 1)`` along each axis.

    A coordinate depends on its offset alone, never on how many taps are asked for or were asked for before: a longer
    filter has the shorter one in it.

    Args:
      offsets: Offsets of the taps along each axis.
      trained_reach: Taps on one side, the centre counted, at which the coordinate reaches 1; at least 2.

    Raises:
      InputMismatch: There are more or fewer ranges than axes.
    """
    if len(offsets) != len(trained_reach):
        raise InputMismatch(f"a filter over {len(trained_reach)} axes was asked for {len(offsets)} ranges of taps")
    axes = [
        torch.arange(span.start, span.stop, device=device, dtype=torch.float64).div(reach - 1).to(dtype)
        for span, reach in zip(offsets, trained_reach, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def limited(parameter: Tensor, low: float | tuple[float, ...], high: float | tuple[float, ...]) -> Tensor:
    """Returns a parameter as it acts, within ``[low, high]``; its gradient passes outside them too."""
    inside = parameter.detach().clamp(*(torch.as_tensor(bound).to(parameter) for bound in (low, high)))
    return inside + (parameter - parameter.detach())
