"""The short depthwise convolution in front of a mixer, over one, two or three axes."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from subquad.modules.errors import ConfigurationError
from subquad.modules.exchange import SequenceExchange
from subquad.modules.mixers.split_convolution import channel_share, split_causal_conv
from subquad.modules.parts.initialization import reset_constant, reset_uniform
from subquad.modules.widths import require_grid
from subquad.ops import causal_conv, causal_conv_with_state, fir_step, history_from_ring, ring_from_history

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


class ShortConvolution(nn.Module):
    """Filters each channel with a few taps: ``y[t] = sum(taps[c, k] * x[t + centre - k] for k) + bias[c]``.

    ``centre`` is ``size // 2`` along each axis, and 0 for a causal convolution.

    Args:
      channels: Number of channels.
      filter_size: Taps along each axis, at least 2.
      data_dim: Axes of space, 1 to 3.
      causal: No output sees a later input; one axis with a zero boundary only.
      boundary: ``"zero"`` outside the input, ``"circular"`` to wrap round, or one of the two per axis.
      bias: Whether there is a term per channel.
      backend: That of ``causal_conv`` where the convolution is causal; another one is torch's own.

    Raises:
      ConfigurationError: The arguments exclude each other or are out of their range.
    """

    no_weight_decay = frozenset({"taps"})
    bias: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        filter_size: int = 3,
        data_dim: int = 1,
        causal: bool = False,
        boundary: Literal["zero", "circular"] | Sequence[Literal["zero", "circular"]] = "zero",
        bias: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if data_dim not in (1, 2, 3) or filter_size < 2 or channels < 1:
            raise ConfigurationError(
                f"data_dim is {data_dim}, filter_size {filter_size}, channels {channels}; accepted are 1 to 3 axes, "
                "2 or more taps, 1 or more channels"
            )
        self.boundary = (boundary,) * data_dim if isinstance(boundary, str) else tuple(boundary)
        if len(self.boundary) != data_dim or not set(self.boundary) <= {"zero", "circular"}:
            raise ConfigurationError(f"boundary is {boundary!r}; accepted are 'zero' and 'circular', 1 or {data_dim}")
        if causal and self.boundary != ("zero",):
            raise ConfigurationError(f"boundary is {self.boundary} and causal True; accepted is one axis with 'zero'")
        self.channels, self.filter_size, self.data_dim, self.causal = channels, filter_size, data_dim, causal
        self.backend = backend
        self.taps = nn.Parameter(torch.empty(channels, *[filter_size] * data_dim, device=device, dtype=dtype))
        term = nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", term)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws taps from ``U(-b, b)`` with ``b = 1 / sqrt(taps of a channel)``; the bias is zero."""
        reset_uniform(self.taps, 1 / self.taps[0].numel(), generator)
        reset_constant(self.bias, 0.0)

    def forward(
        self, x: Float[Tensor, "batch *space channel"], *, exchange: SequenceExchange | None = None
    ) -> Float[Tensor, "batch *space channel"]:
        """Filters a grid, channels last, or the part of a sequence that this rank of ``exchange`` holds.

        Raises:
          InputMismatch: ``x`` has another number of channels or axes.
        """
        require_grid("the input", x, self.channels, axes=self.data_dim)
        x = x.movedim(-1, 1)
        if exchange is None or exchange.size == 1:
            return self._filtered(x, self.taps, self.bias).movedim(1, -1)
        if self.causal:
            y = split_causal_conv(x, self.taps, exchange, backend=self.backend)
            return (y if self.bias is None else y + self.bias[:, None]).movedim(1, -1)
        whole = exchange.to_channels(x)
        share = channel_share(whole, exchange)
        y = self._filtered(whole, self.taps[share], None if self.bias is None else self.bias[share])
        return exchange.to_sequence(y).movedim(1, -1)

    def _filtered(self, x: Float[Tensor, "batch channel *space"], taps: Tensor, bias: Tensor | None) -> Tensor:
        if self.causal:
            return causal_conv(x, taps, bias=bias, backend=self.backend)
        after, before = self.filter_size // 2, (self.filter_size - 1) // 2
        for axis, boundary in enumerate(self.boundary):
            if boundary == "zero":
                pads = [0, 0] * (self.data_dim - 1 - axis) + [before, after]
                x = functional.pad(x, pads)
            else:
                index = torch.arange(-before, x.shape[axis + 2] + after, device=x.device) % x.shape[axis + 2]
                x = x.index_select(axis + 2, index)
        weight = taps.flip(tuple(range(1, taps.dim()))).unsqueeze(1)
        return _CONVOLUTIONS[self.data_dim - 1](x, weight, bias, groups=len(taps))

    def continue_with(
        self,
        x: Float[Tensor, "batch length channel"],
        ring: Float[Tensor, "batch channel past"],
        position: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch length channel"]:
        """Filters the next chunk of sequences whose last inputs are in ``ring``, which is updated; causal only."""
        history = history_from_ring(ring, position).to(x.dtype)
        y, history = causal_conv_with_state(
            x.transpose(1, 2), self.taps, bias=self.bias, initial_state=history, backend=self.backend
        )
        ring.copy_(ring_from_history(history, position + x.shape[1]))
        return y.transpose(1, 2)

    def step(
        self,
        x: Float[Tensor, "batch channel"],
        ring: Float[Tensor, "batch channel past"],
        position: Int[Tensor, " batch"],
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Filters one more token per row; see ``fir_step``."""
        return fir_step(x, self.taps, ring, position, bias=self.bias, active=active)

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts the taps on one sample, of a length or of a size per axis."""
        points = length if isinstance(length, int) else math.prod(length)
        return points * (2 * self.taps.numel() + (0 if self.bias is None else self.channels))
