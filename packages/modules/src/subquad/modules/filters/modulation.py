"""Envelopes of implicit filters: each channel looks only so far, and learns how far."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError
from subquad.modules.filters.positions import Offsets, filter_positions, limited, per_axis
from subquad.modules.parts.full_precision import FullPrecisionModule, full_precision_dtype

Deviations = Literal["direct", "log", "softplus"]


class ExponentialModulation(FullPrecisionModule):
    """The envelope ``exp(-sum(abs(rate[c, a]) * abs(p[a]) for a in axes))``, with ``p`` of ``filter_positions``.

    Rates start evenly spaced over the channels; at the trained reach along all axes the first channel has decayed to
    ``exp(-slow_decay)`` and the last to ``exp(-fast_decay)``.

    Args:
      channels: Number of filters.
      data_dim: Axes of space, 1 to 3.
      trained_reach: Taps on one side at which a coordinate reaches 1, per axis or for all; at least 2.
      fast_decay: Decay of the last channel, in nepers.
      slow_decay: Decay of the first channel.

    Raises:
      ConfigurationError: ``trained_reach`` does not fit, or the decays are not ``0 <= slow <= fast``.
    """

    full_precision_names = frozenset({"rate"})
    no_weight_decay = frozenset({"rate"})

    def __init__(
        self,
        channels: int,
        *,
        trained_reach: int | Sequence[int],
        data_dim: int = 1,
        fast_decay: float = 13.81,
        slow_decay: float = 2.3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= slow_decay <= fast_decay:
            raise ConfigurationError(f"slow_decay {slow_decay} and fast_decay {fast_decay} must be 0 <= slow <= fast")
        self.trained_reach = per_axis("trained_reach", trained_reach, data_dim, least=2)
        self.slow_decay, self.fast_decay = slow_decay, fast_decay
        self.rate = nn.Parameter(torch.empty(channels, data_dim, device=device, dtype=full_precision_dtype(dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spaces the rates evenly over the channels."""
        if not self.rate.is_meta:
            channels, axes = self.rate.shape
            rates = torch.linspace(self.slow_decay, self.fast_decay, channels, dtype=torch.float64) / axes
            with torch.no_grad():
                self.rate.copy_(rates.unsqueeze(1).expand(-1, axes))

    def forward(self, offsets: Offsets) -> Float[Tensor, "channel ..."]:
        """Returns the envelope of every channel at all combinations of offsets."""
        position = filter_positions(offsets, self.trained_reach, self.rate.device, self.rate.dtype)
        return torch.exp(-(position.abs() @ self.rate.abs().T)).movedim(-1, 0)

    def flop_count(self, taps: int) -> int:
        """Counts the exponents and exponentials of ``taps`` taps of every channel."""
        channels, axes = self.rate.shape
        return taps * (channels * (2 * axes + 2) + axes)


class GaussianModulation(FullPrecisionModule):
    """The envelope ``exp(-sum((p[a] / deviation[c, a]) ** 2 for a in axes) / 2)``, with ``p`` of ``filter_positions``.

    Deviations act within bounds that are stated as what the envelope leaves: the narrowest leaves
    ``least_at_step`` one tap from the centre, the widest ``greatest_at_limit`` at the trained reach, along each axis.
    They start in log steps over the channels, from the narrowest to one that leaves 0.1 at ``init_extent``, or the
    other way round, which suits filters whose frequencies rise with the channel.

    Args:
      channels: Number of filters.
      data_dim: Axes of space, 1 to 3.
      trained_reach: Taps on one side at which a coordinate reaches 1, per axis or for all; at least 2.
      least_at_step: Between 0 and 1.
      greatest_at_limit: Between 0 and 1.
      init_extent: Coordinate at which the widest channel starts at 0.1, per axis or for all.
      widest_first: Whether channel 0 starts the widest.
      parametrization: ``"direct"`` learns deviations, ``"log"`` their logarithms, ``"softplus"`` their inverse
        softplus.

    Raises:
      ConfigurationError: A value is out of its range, or the bounds leave nothing between them.
    """

    full_precision_names = frozenset({"parameter"})
    no_weight_decay = frozenset({"parameter"})

    def __init__(
        self,
        channels: int,
        *,
        trained_reach: int | Sequence[int],
        data_dim: int = 1,
        least_at_step: float = 0.1,
        greatest_at_limit: float = 0.95,
        init_extent: float | Sequence[float] = 1.0,
        widest_first: bool = False,
        parametrization: Deviations = "direct",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if parametrization not in ("direct", "log", "softplus"):
            raise ConfigurationError(
                f"parametrization is {parametrization!r}; accepted are 'direct', 'log', 'softplus'"
            )
        if not (0 < least_at_step < 1 and 0 < greatest_at_limit < 1):
            raise ConfigurationError(
                f"least_at_step {least_at_step} and greatest_at_limit {greatest_at_limit} must lie between 0 and 1"
            )
        self.trained_reach = per_axis("trained_reach", trained_reach, data_dim, least=2)
        extents = [init_extent] * data_dim if isinstance(init_extent, float | int) else list(init_extent)
        if len(extents) != data_dim or min(extents) <= 0:
            raise ConfigurationError(f"init_extent is {init_extent!r}; accepted are positive numbers, 1 or {data_dim}")
        self.parametrization: Deviations = parametrization
        self.widest_first = widest_first
        self.init_extent = tuple(float(extent) for extent in extents)
        wide = full_precision_dtype(dtype)
        low = [_deviation(least_at_step, 1 / (reach - 1)) for reach in self.trained_reach]
        high = [_deviation(greatest_at_limit, 1.0)] * data_dim
        if max(low) > high[0]:
            raise ConfigurationError(
                f"with trained_reach {self.trained_reach} the bounds of deviations are {max(low):.3g} to {high[0]:.3g}"
            )
        self.low, self.high = tuple(low), tuple(high)
        self.parameter = nn.Parameter(torch.empty(channels, data_dim, device=device, dtype=wide))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spaces the deviations in log steps over the channels."""
        if self.parameter.is_meta:
            return
        columns = []
        for low, high, extent in zip(self.low, self.high, self.init_extent, strict=True):
            ends = [min(max(value * extent, low), high) for value in (low, _deviation(0.1, 1.0))]
            steps = torch.linspace(math.log(ends[0]), math.log(ends[1]), len(self.parameter), dtype=torch.float64)
            columns.append(steps.exp())
        deviations = torch.stack(columns, dim=1)
        deviations = deviations.flip(0) if self.widest_first else deviations
        inverse = {"direct": lambda x: x, "log": torch.log, "softplus": lambda x: x.expm1().log()}
        with torch.no_grad():
            self.parameter.copy_(inverse[self.parametrization](deviations))

    def deviations(self) -> Float[Tensor, "channel axis"]:
        """Returns the deviations as they act, within their bounds, in units of ``filter_positions``."""
        form = {"direct": lambda x: x, "log": torch.exp, "softplus": nn.functional.softplus}
        return limited(form[self.parametrization](self.parameter), self.low, self.high)

    def forward(self, offsets: Offsets) -> Float[Tensor, "channel ..."]:
        """Returns the envelope of every channel at all combinations of offsets."""
        position = filter_positions(offsets, self.trained_reach, self.parameter.device, self.parameter.dtype)
        return torch.exp(-0.5 * (position.square() @ self.deviations().square().reciprocal().T)).movedim(-1, 0)

    def flop_count(self, taps: int) -> int:
        """Counts the exponents and exponentials of ``taps`` taps of every channel."""
        channels, axes = self.parameter.shape
        return taps * (channels * (2 * axes + 2) + axes)


def _deviation(left: float, position: float) -> float:
    """The deviation of a Gaussian that leaves ``left`` of 1 at ``position``."""
    return position / math.sqrt(-2 * math.log(left))
