"""One scan of Mamba along a sequence: a short convolution, then a recurrence whose coefficients the input makes."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.modules.errors import ConfigurationError
from subquad.modules.exchange import SequenceExchange
from subquad.modules.mixers.selective_state import SelectiveState, SelectiveStreams
from subquad.modules.parts.full_precision import FullPrecisionModule, full_precision_dtype
from subquad.modules.parts.initialization import reset_constant, reset_uniform
from subquad.modules.parts.short_convolution import ShortConvolution

_STEP_SIZES = (1e-3, 1e-1)  # between which step sizes start, in log steps


class SelectiveBranch(FullPrecisionModule, ABC):
    """Scans a sequence: ``y = selective_scan(silu(conv(x)), ...) + D * silu(conv(x))``.

    Subclasses say what the convolution covers and what makes step sizes and weights. ``-exp(log_decay)`` is the decay.

    Args:
      channels: Channels that are scanned.
      control_channels: Channels of the second input, from which Mamba 2 makes its coefficients.
      convolved: Channels that go through the short convolution.
      state_size: States of a channel.
      filter_size: Taps of the short convolution.
      chunk_size: Samples scanned at a time, see ``selective_scan``; None for all.
      backend: See ``selective_scan``.
    """

    full_precision_names = frozenset({"log_decay", "step_bias", "D"})
    no_weight_decay = frozenset({"log_decay", "step_bias", "D"})

    def __init__(
        self,
        channels: int,
        *,
        control_channels: int,
        convolved: int,
        state_size: int,
        filter_size: int,
        chunk_size: int | None,
        backend: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.channels, self.control_channels = channels, control_channels
        self.state_size, self.chunk_size, self.backend = state_size, chunk_size, backend
        self.conv = ShortConvolution(
            convolved, filter_size=filter_size, causal=True, bias=True, device=device, dtype=dtype
        )

    @abstractmethod
    def convolved(
        self, x: Float[Tensor, "... channel"], control: Float[Tensor, "... control"]
    ) -> Float[Tensor, "... convolved"]:
        """What goes through the short convolution."""

    @abstractmethod
    def streams(
        self, convolved: Float[Tensor, "batch length convolved"], control: Float[Tensor, "batch length control"]
    ) -> SelectiveStreams:
        """Makes the arguments of the scan from the convolution's activated output."""

    @abstractmethod
    def coefficients(self) -> tuple[Float[Tensor, "channel state"], Float[Tensor, " channel"]]:
        """Returns the decay of every channel and state, and the factor of the unscanned input."""

    def forward(
        self,
        x: Float[Tensor, "batch length channel"],
        control: Float[Tensor, "batch length control"],
        state: SelectiveState | None = None,
        active: Bool[Tensor, " batch"] | None = None,
        *,
        exchange: SequenceExchange | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Scans whole sequences, or the next samples of those in ``state``; one sample of the rows in ``active``.

        Sequences without a state may be split over the ranks of ``exchange``.
        """
        z = self.convolved(x, control)
        if state is None:
            z = self.conv(z, exchange=exchange)
        elif active is None:
            z = self.conv.continue_with(z, state.convolution, state.position)
        else:
            z = self.conv.step(z[:, 0], state.convolution, state.position, active=active).unsqueeze(1)
        streams = self.streams(functional.silu(z), control)
        decay, skip = self.coefficients()
        options = {"chunk_size": self.chunk_size, "backend": self.backend}
        if state is None and exchange is not None and exchange.size > 1:
            y = streams.scan_split(decay, exchange, **options)
        elif state is None:
            y = streams.scan(decay, **options)
        else:
            y, after = streams.continue_from(state.scan, decay, **options)
            state.scan.copy_(after if active is None else torch.where(active[:, None, None], after, state.scan))
        return (y + skip.unsqueeze(1) * streams.x).transpose(1, 2).to(x.dtype)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> SelectiveState:
        """Returns the state of sequences of which nothing was seen; ``dtype`` is that of the ring."""
        decay, wide = self.coefficients()[0], full_precision_dtype(dtype)
        past = (batch_size, self.conv.channels, self.conv.filter_size - 1)
        return SelectiveState(
            position=torch.zeros(batch_size, dtype=torch.int64, device=device),
            convolution=torch.zeros(past, device=device, dtype=dtype),
            scan=torch.zeros(batch_size, *decay.shape, device=device, dtype=wide),
        )

    def flop_count(self, points: int) -> int:
        """Counts convolution, activation, step sizes, the recurrence (8 a state) and the skip term at some points."""
        return self.conv.flop_count(points) + points * (self.conv.channels + self.channels * (8 * self.state_size + 4))


class Mamba1Branch(SelectiveBranch):
    """The scan of Mamba 1: a decay per channel and state; one projection of the convolved input makes the rest.

    Args:
      channels: Channels that are scanned.
      state_size: States of a channel.
      step_rank: Channels in between the input and its step sizes.
      filter_size: Taps of the short convolution.
      chunk_size: Samples scanned at a time, see ``selective_scan``; None for all.
      backend: See ``selective_scan``.

    Source: Gu and Dao, Mamba: linear-time sequence modeling with selective state spaces, 2023.
    """

    def __init__(
        self,
        channels: int,
        *,
        state_size: int,
        step_rank: int,
        filter_size: int,
        chunk_size: int | None,
        backend: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__(
            channels,
            control_channels=0,
            convolved=channels,
            state_size=state_size,
            filter_size=filter_size,
            chunk_size=chunk_size,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.step_rank = step_rank
        wide = full_precision_dtype(dtype)
        self.x_proj = nn.Linear(channels, step_rank + 2 * state_size, bias=False, device=device, dtype=dtype)
        self.step_proj = nn.Linear(step_rank, channels, bias=False, device=device, dtype=dtype)
        self.step_bias = nn.Parameter(torch.empty(channels, device=device, dtype=wide))
        self.log_decay = nn.Parameter(torch.empty(channels, state_size, device=device, dtype=wide))
        self.D = nn.Parameter(torch.empty(channels, device=device, dtype=wide))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Starts with decays 1 to ``state_size`` a step, step sizes of 0.001 to 0.1 and a skip factor of 1."""
        reset_uniform(self.x_proj.weight, 1 / self.channels, generator)
        reset_uniform(self.step_proj.weight, 1 / self.step_rank, generator)
        reset_step_bias(self.step_bias, generator)
        if not self.log_decay.is_meta:
            with torch.no_grad():
                self.log_decay.copy_(torch.arange(1, self.state_size + 1).log().expand_as(self.log_decay))
        reset_constant(self.D, 1.0)

    def convolved(
        self, x: Float[Tensor, "... channel"], control: Float[Tensor, "... control"]
    ) -> Float[Tensor, "... channel"]:
        """Returns ``x``."""
        return x

    def streams(
        self, convolved: Float[Tensor, "batch length channel"], control: Float[Tensor, "batch length control"]
    ) -> SelectiveStreams:
        """Makes the arguments of the scan from the convolution's activated output."""
        wide = self.step_bias.dtype
        step, into, out = self.x_proj(convolved).split([self.step_rank, self.state_size, self.state_size], dim=-1)
        raw = (self.step_proj(step).to(wide) + self.step_bias).transpose(1, 2)
        return SelectiveStreams(
            x=convolved.to(wide).transpose(1, 2),
            step_size=functional.softplus(raw.contiguous()),  # compiled, its gradient takes other strides to be dense
            input_weights=into.to(wide).transpose(1, 2).unsqueeze(1),
            output_weights=out.to(wide).transpose(1, 2).unsqueeze(1),
        )

    def coefficients(self) -> tuple[Float[Tensor, "channel state"], Float[Tensor, " channel"]]:
        """Returns the decay of every channel and state, and the factor of the unscanned input."""
        return -self.log_decay.exp(), self.D

    def flop_count(self, points: int) -> int:
        """Counts the projections too."""
        return super().flop_count(points) + 2 * points * (self.x_proj.weight.numel() + self.step_proj.weight.numel())


class Mamba2Branch(SelectiveBranch):
    """The scan of Mamba 2: a decay and a step size per head; a second input brings weights and step sizes.

    ``control`` holds input weights and output weights, which are convolved with ``x``, and a step size a head.

    Args:
      channels: Channels that are scanned; the heads divide them.
      state_size: States of a channel.
      head_size: Channels of a head.
      num_groups: Sets of weights; divides the number of heads.
      filter_size: Taps of the short convolution.
      chunk_size: Samples scanned at a time, see ``selective_scan``; None for all.
      backend: See ``selective_scan``.

    Raises:
      ConfigurationError: The sizes do not divide.

    Source: Dao and Gu, Transformers are SSMs, 2024.
    """

    def __init__(
        self,
        channels: int,
        *,
        state_size: int,
        head_size: int,
        num_groups: int,
        filter_size: int,
        chunk_size: int | None,
        backend: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        heads = channels // max(head_size, 1)
        if head_size < 1 or channels % head_size or num_groups < 1 or heads % num_groups:
            raise ConfigurationError(
                f"{channels} scanned channels, head_size {head_size}, num_groups {num_groups}; heads must divide the "
                "channels and groups the heads"
            )
        weights = 2 * num_groups * state_size
        super().__init__(
            channels,
            control_channels=weights + heads,
            convolved=channels + weights,
            state_size=state_size,
            filter_size=filter_size,
            chunk_size=chunk_size,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.num_heads, self.head_size, self.num_groups = heads, head_size, num_groups
        wide = full_precision_dtype(dtype)
        self.step_bias, self.log_decay, self.D = (
            nn.Parameter(torch.empty(heads, device=device, dtype=wide)) for _ in range(3)
        )
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Starts with decays of 1 to 16 a step, step sizes of 0.001 to 0.1 and a skip factor of 1."""
        reset_step_bias(self.step_bias, generator)
        if not self.log_decay.is_meta:
            with torch.no_grad():
                self.log_decay.copy_((1 + 15 * torch.rand(self.num_heads, generator=generator)).log())
        reset_constant(self.D, 1.0)

    def convolved(
        self, x: Float[Tensor, "... channel"], control: Float[Tensor, "... control"]
    ) -> Float[Tensor, "... convolved"]:
        """Returns ``x``, then the input and output weights."""
        return torch.cat([x, control[..., : -self.num_heads]], dim=-1)

    def streams(
        self, convolved: Float[Tensor, "batch length convolved"], control: Float[Tensor, "batch length control"]
    ) -> SelectiveStreams:
        """Makes the arguments of the scan from the convolution's activated output."""
        wide = self.step_bias.dtype
        raw = (control[..., -self.num_heads :].to(wide) + self.step_bias).transpose(1, 2)
        step_size = functional.softplus(raw.contiguous())
        size = self.num_groups * self.state_size
        x, into, out = convolved.to(wide).transpose(1, 2).split([self.channels, size, size], dim=1)
        return SelectiveStreams(
            x=x,
            step_size=step_size.repeat_interleave(self.head_size, dim=1),
            input_weights=into.unflatten(1, (self.num_groups, self.state_size)),
            output_weights=out.unflatten(1, (self.num_groups, self.state_size)),
        )

    def coefficients(self) -> tuple[Float[Tensor, "channel state"], Float[Tensor, " channel"]]:
        """Returns the decay of every channel and state, and the factor of the unscanned input."""
        decay = -self.log_decay.exp().repeat_interleave(self.head_size)
        return decay.unsqueeze(1).expand(-1, self.state_size), self.D.repeat_interleave(self.head_size)


def reset_step_bias(bias: Tensor, generator: torch.Generator | None) -> None:
    """Fills a bias such that ``softplus(bias)`` lies between 0.001 and 0.1, evenly in its logarithm."""
    if not bias.is_meta:
        low, high = (math.log(value) for value in _STEP_SIZES)
        step_size = torch.exp(low + (high - low) * torch.rand(bias.shape, generator=generator, dtype=torch.float64))
        with torch.no_grad():
            bias.copy_(step_size.expm1().log())
