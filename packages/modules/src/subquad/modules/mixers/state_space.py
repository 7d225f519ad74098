"""Gates around a linear state space over one, two or three axes: a filter per axis, each a sum of exponentials."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError
from subquad.modules.exchange import SequenceExchange, refuse_split_state, sequence_exchange
from subquad.modules.mixers.modal import ModalState
from subquad.modules.mixers.split_convolution import channel_share, split_modal_conv
from subquad.modules.mixers.stateless import refuse_state
from subquad.modules.parts.full_precision import FullPrecisionModule, full_precision_dtype
from subquad.modules.parts.initialization import reset_normal
from subquad.modules.widths import require_streams
from subquad.ops import modal_conv, modal_conv_with_state, modal_step


class StateSpace(FullPrecisionModule):
    """Gates before and after a separable filter: ``y = q * (conv(k * v, h) + D * k * v)``, in linear time.

    The filter of a channel is a product over the axes, ``h[i, j] = h_0[i] * h_1[j]``, of sums of exponentials that
    decay to both sides: ``h_a[t] = sum(residues * exp(-rate * t))`` for ``t >= 0``, plus the same with parameters of
    its own for ``-t >= 0``. A causal one, over one axis, has the first of the two alone; its state does not grow.

    Args:
      channels: Number of channels, each with a filter of its own.
      data_dim: Axes of space, 1 to 3.
      causal: No output sees a later input; one axis only.
      state_size: Exponentials per side of an axis.
      longest: Slowest time constant at first, in points; the others are spaced in log steps from 1.
      chunk_size: See ``modal_conv``.
      backend: See ``modal_conv``.
      exchange: Where the rest of a split sequence is, over one axis; None for a sequence on one rank.

    Raises:
      ConfigurationError: An argument is out of its range.

    Source: Gu et al., On the parameterization and initialization of diagonal state space models, 2022; products over
    axes after Nguyen et al., S4ND, 2022.
    """

    full_precision_names = frozenset({"log_rate", "residues"})
    no_weight_decay = frozenset({"log_rate", "residues"})

    def __init__(
        self,
        channels: int,
        *,
        data_dim: int = 1,
        causal: bool = False,
        state_size: int = 16,
        longest: float = 256.0,
        chunk_size: int | None = None,
        backend: str = "auto",
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if data_dim not in (1, 2, 3) or (causal and data_dim != 1):
            raise ConfigurationError(f"data_dim is {data_dim}, causal {causal}; accepted are 1 to 3 axes, 1 if causal")
        if min(channels, state_size, longest) < 1:
            raise ConfigurationError(
                f"channels is {channels}, state_size {state_size}, longest {longest}; each must be at least 1"
            )
        self.channels, self.data_dim, self.causal = channels, data_dim, causal
        self.longest, self.chunk_size, self.backend = float(longest), chunk_size, backend
        self.exchange = sequence_exchange(exchange, data_dim)
        shape, wide = (data_dim, 1 if causal else 2, channels, state_size), full_precision_dtype(dtype)
        self.log_rate = nn.Parameter(torch.empty(shape, device=device, dtype=wide))
        self.residues = nn.Parameter(torch.empty(shape, device=device, dtype=wide))
        self.D = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Spaces the rates, draws residues such that each side has a square sum near 1, and ``D`` from ``N(0, 1)``."""
        reset_normal(self.D, 1.0, generator)
        reset_normal(self.residues, 1.0, generator)
        if not self.log_rate.is_meta:
            states = self.log_rate.shape[-1]
            log_rate = -torch.linspace(0, math.log(self.longest), states, dtype=torch.float64)
            with torch.no_grad():
                self.log_rate.copy_(log_rate.expand_as(self.log_rate))
                self.residues.mul_((-torch.expm1(-2 * self.log_rate.exp()) / states).sqrt())

    def forward(
        self,
        q: Float[Tensor, "batch *space channel"],
        k: Float[Tensor, "batch *space channel"],
        v: Float[Tensor, "batch *space channel"],
        *,
        state: ModalState | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Mixes whole grids, or the next chunk of the sequences in ``state``; see ``Mixer``.

        Raises:
          InputMismatch: A stream has another number of channels or axes, or other points than the rest.
        """
        require_streams(q, k, v, self.channels, axes=self.data_dim, state=state)
        gated = k * v
        x = gated.movedim(-1, 1)
        if state is None and self.exchange.size > 1:
            x = self._split(x)
        elif state is None:
            for axis in range(self.data_dim):
                x = self._filtered(x, axis, slice(None))
        else:
            refuse_split_state(self.exchange)
            poles, residues = self.poles()[0, 0], self.residues[0, 0]
            x, modal = modal_conv_with_state(
                x, poles, residues, initial_state=state.modal, chunk_size=self.chunk_size, backend=self.backend
            )
            state.modal.copy_(modal)
        return q * (x.movedim(1, -1) + self.D * gated)

    def poles(self) -> Float[Tensor, "axis side channel state"]:
        """Returns the logarithms of the poles, all negative."""
        return -self.log_rate.exp()

    def _split(self, x: Float[Tensor, "batch channel length"]) -> Float[Tensor, "batch channel length"]:
        """Convolves this rank's part of a sequence: from the state that enters it, or else channels for length."""
        if self.causal:
            return split_modal_conv(x, self.poles()[0, 0], self.residues[0, 0], self.exchange)
        whole = self.exchange.to_channels(x)
        return self.exchange.to_sequence(self._filtered(whole, 0, channel_share(whole, self.exchange)))

    def _filtered(
        self, x: Float[Tensor, "batch channel *space"], axis: int, share: slice
    ) -> Float[Tensor, "batch channel *space"]:
        """Convolves a share of the channels along one axis, to one side or to both."""
        moved = x.movedim(1, -1).movedim(axis + 1, -1)
        lines = moved.flatten(0, -3)
        y = torch.zeros_like(lines)
        for side, (poles, residues) in enumerate(zip(self.poles()[axis], self.residues[axis], strict=True)):
            part = lines.flip(-1) if side else lines
            part = modal_conv(part, poles[share], residues[share], chunk_size=self.chunk_size, backend=self.backend)
            y = y + (part.flip(-1) if side else part)
        return y.view(moved.shape).movedim(-1, axis + 1).movedim(-1, 1)

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ModalState:
        """Returns a zero state, which does not grow with ``max_length``.

        Raises:
          StateUnsupported: The mixer is not causal.
        """
        if not self.causal:
            refuse_state(self)
        device, wide = device or self.D.device, self.residues.dtype if dtype != torch.float64 else torch.float64
        return ModalState(
            position=torch.zeros(batch_size, dtype=torch.int64, device=device),
            projection=None,
            modal=torch.zeros(batch_size, *self.residues.shape[2:], device=device, dtype=wide),
        )

    def step(
        self,
        q: Float[Tensor, "batch channel"],
        k: Float[Tensor, "batch channel"],
        v: Float[Tensor, "batch channel"],
        state: ModalState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Mixes one more token per row; see ``Mixer``."""
        require_streams(q, k, v, self.channels, axes=0, state=state)
        refuse_split_state(self.exchange)
        poles, residues = self.poles()[0, 0], self.residues[0, 0]
        gated = k * v
        return q * (
            modal_step(gated, poles, residues, state.modal, active=active, backend=self.backend) + self.D * gated
        )

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts the recurrences along all axes, both gates and the skip term on one sample."""
        points = length if isinstance(length, int) else math.prod(length)
        axes, sides, channels, states = self.log_rate.shape
        return points * channels * (axes * sides * (4 * states + 1) + 4)
