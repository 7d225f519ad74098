"""Convolution with an implicit filter as long as the input, over one, two or three axes."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError, InputMismatch, StateCapacityExceeded
from subquad.modules.exchange import SequenceExchange, refuse_split_state, sequence_exchange
from subquad.modules.filters.modulation import ExponentialModulation, GaussianModulation
from subquad.modules.filters.network import Filter
from subquad.modules.filters.positions import Offsets, Span, per_axis
from subquad.modules.filters.tap_cache import TapCache
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.online_convolution import add_due_tiles, restart_tiles
from subquad.modules.mixers.split_convolution import channel_share
from subquad.modules.mixers.stateless import refuse_state
from subquad.modules.parts.full_precision import full_precision_dtype
from subquad.modules.parts.initialization import reset_uniform
from subquad.modules.traced_sizes import size_is_unknown
from subquad.modules.widths import require_active, require_grid, require_positive, require_rows
from subquad.ops import fft_conv
from subquad.ops.fft_sizes import fast_fft_size

Boundary = Literal["zero", "circular"]
Extent = Literal["double", "single"]


@dataclasses.dataclass
class InputHistoryState(MixerState):
    """All inputs of a causal filter so far, in order; slots past ``position`` are zero.

    Attributes:
      inputs: ``[batch, channel, max_length]``.
      pending: What later outputs already hold of these inputs, ``[batch, channel, max_length]``, float32 or float64;
        see ``add_due_tiles``.
    """

    inputs: Tensor
    pending: Tensor


class CKConv(nn.Module):
    """Convolves each channel with a filter that a network makes: ``y = conv(x, filter * envelope) + skip * x``.

    A filter is as long as the input needs: with extent ``"double"`` offsets ``1 - size`` to ``size - 1`` along an axis
    (every output sees every input), with ``"single"`` half of that to each side; causal ones have offsets 0 to
    ``size - 1``. Taps depend on their offsets alone, so that inputs of any size share one filter.

    As a ``Mixer`` it convolves v and takes no q and k (``stream_channels`` is ``(0, 0, channels)``). A state holds all
    inputs; a step costs ``O(log(n) ** 2)`` on average after ``n`` tokens. In eval mode without gradients taps are kept
    until a parameter changes; changes through ``parameter.data`` are not seen, ``clear_tap_cache`` tells of them.

    Args:
      channels: Number of channels.
      filter_cfg: Configuration of a ``Filter``; ``channels``, ``data_dim`` and ``trained_reach`` are filled in.
      modulation_cfg: Configuration of an envelope, filled in likewise; None for none.
      trained_size: Size of the inputs in training, per axis or for all, which sets the units of positions; at least 2.
      data_dim: Axes of space, 1 to 3.
      causal: No output sees a later input; one axis with a zero boundary only.
      boundary: ``"zero"`` outside the input, ``"circular"`` to wrap round, or one of the two per axis.
      extent: ``"double"`` or ``"single"``, per axis or for all; None for single where circular, else double.
      chunk_size: Channels transformed at a time, see ``fft_conv``; None for all.
      backend: See ``fft_conv``.
      exchange: Where the rest of a split sequence is, over one axis; None for a sequence on one rank. A condition then
        has a vector for each whole sequence.

    Raises:
      ConfigurationError: The arguments exclude each other or are out of their range.

    Source: Romero et al., CKConv: continuous kernel convolution for sequential data, 2021.
    """

    no_weight_decay = frozenset({"skip"})

    def __init__(
        self,
        channels: int,
        filter_cfg: Config[nn.Module],
        *,
        trained_size: int | Sequence[int],
        modulation_cfg: Config[ExponentialModulation | GaussianModulation] | None = None,
        data_dim: int = 1,
        causal: bool = False,
        boundary: Boundary | Sequence[Boundary] = "zero",
        extent: Extent | Sequence[Extent] | None = None,
        chunk_size: int | None = None,
        backend: str = "auto",
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        sizes = per_axis("trained_size", trained_size, data_dim, least=2)
        self.channels, self.data_dim, self.causal = channels, data_dim, causal
        self.boundary, self.extent = _check_axes(data_dim, causal, boundary, extent)
        self.chunk_size, self.backend = chunk_size, backend
        self.exchange = sequence_exchange(exchange, data_dim)
        reach = tuple(max(2, _reach(size, kind)) for size, kind in zip(sizes, self.extent, strict=True))
        parts = {
            "channels": channels, "data_dim": data_dim, "trained_reach": reach, "device": device, "dtype": dtype
        }  # fmt: skip
        self.filter = instantiate(filter_cfg, **parts)
        if not isinstance(self.filter, Filter):
            raise ConfigurationError(f"filter_cfg makes a {type(self.filter).__name__}, which is no Filter")
        self.modulation = None if modulation_cfg is None else instantiate(modulation_cfg, **parts)
        self.skip = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self._taps = TapCache()
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws ``skip`` from ``U(-1/sqrt(channels), 1/sqrt(channels))``; filter and envelope reset themselves."""
        reset_uniform(self.skip, 1 / self.channels, generator)

    @property
    def stream_channels(self) -> tuple[int, int, int]:
        """Channels of q, k and v that the mixer takes: v alone."""
        return (0, 0, self.channels)

    @property
    def takes_condition(self) -> bool:
        """Whether filters may depend on a condition."""
        return bool(self.filter.takes_condition)

    def clear_tap_cache(self) -> None:
        """Forgets the taps kept for eval mode."""
        self._taps.clear()

    def taps(
        self, size: Sequence[int], condition: Float[Tensor, "batch condition"] | None = None
    ) -> Float[Tensor, "sample channel ..."]:
        """Returns the filter under its envelope for inputs of a size, in float32 (float64 in a float64 model)."""
        offsets = self._offsets(tuple(size))
        if condition is not None:
            return self._make_taps(offsets, condition)
        return self._taps.get(self, offsets, lambda: self._make_taps(offsets, None))

    def _make_taps(self, offsets: Offsets, condition: Tensor | None) -> Tensor:
        taps = self.filter(offsets, condition)
        return taps if self.modulation is None else taps * self.modulation(offsets)

    def _offsets(self, size: tuple[int, ...]) -> Offsets:
        if len(size) != self.data_dim:
            raise InputMismatch(f"the input has {len(size)} axes of space, the convolution {self.data_dim}")
        span = Span if any(size_is_unknown(length) for length in size) else range
        if self.causal:
            return (span(0, size[0]),)
        reaches = [_reach(length, kind) for length, kind in zip(size, self.extent, strict=True)]
        return tuple([span(1 - reach, reach) for reach in reaches])

    def convolve(
        self, x: Float[Tensor, "batch *space channel"], condition: Float[Tensor, "batch condition"] | None = None
    ) -> Float[Tensor, "batch *space channel"]:
        """Convolves a grid, channels last.

        Raises:
          InputMismatch: ``x`` has another number of channels or axes, or a condition has nothing to act on.
        """
        require_grid("the input", x, self.channels, axes=self.data_dim)
        x = x.movedim(-1, 1)
        if self.exchange.size == 1:
            return self._convolved(x, slice(None), condition).movedim(1, -1)
        whole = self.exchange.to_channels(x)
        y = self._convolved(whole, channel_share(whole, self.exchange), condition)
        return self.exchange.to_sequence(y).movedim(1, -1)

    def _convolved(self, x: Float[Tensor, "batch channel *space"], share: slice, condition: Tensor | None) -> Tensor:
        """Convolves a share of the channels, over the whole grid."""
        return fft_conv(
            x,
            self.taps(x.shape[2:], condition)[:, share],
            boundary="zero" if self.causal else self.boundary,
            causal=self.causal,
            skip=self.skip[share],
            chunk_size=self.chunk_size,
            backend=self.backend,
        )

    def forward(
        self,
        q: Float[Tensor, "batch *space none"],
        k: Float[Tensor, "batch *space none"],
        v: Float[Tensor, "batch *space channel"],
        *,
        state: InputHistoryState | None = None,
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Convolves v, or the next chunk of the sequences in ``state``; q and k are not looked at.

        Raises:
          InputMismatch: v has another number of channels or axes, or other rows than ``state``.
          StateUnsupported: A state and a condition, which makes another filter, were given.
        """
        require_grid("v", v, self.channels, axes=self.data_dim)
        if state is None:
            return self.convolve(v, condition)
        if condition is not None:
            refuse_state(self, "a condition makes another filter")
        require_rows(v, state)
        return self.continue_with(v.transpose(1, 2), state).transpose(1, 2)

    def continue_with(
        self, x: Float[Tensor, "batch channel length"], state: InputHistoryState
    ) -> Float[Tensor, "batch channel length"]:
        """Convolves the next chunk of the sequences in ``state``, channels first.

        Raises:
          StateCapacityExceeded: A row would grow past the room of ``state``.
        """
        refuse_split_state(self.exchange)
        batch, _, length = x.shape
        end = self._check_room(state, length, None)
        slots = state.position[:, None] + torch.arange(length, device=x.device)
        index = slots[:, None, :].expand(-1, self.channels, -1)
        state.inputs.scatter_(2, index, x.to(state.inputs.dtype))
        seen, taps = state.inputs[:, :, :end].to(x.dtype), self.taps((state.inputs.shape[2],))
        y = fft_conv(seen, taps[:, :, :end], causal=True, skip=self.skip, backend=self.backend)
        ends = [start + length for start in state.position.tolist()]
        restart_tiles(state.inputs, state.pending, taps[0], ends, backend=self.backend)
        return y.gather(2, index) if batch else x

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> InputHistoryState:
        """Returns room for ``max_length`` inputs a row.

        Raises:
          StateUnsupported: The convolution is not causal.
        """
        if not self.causal:
            refuse_state(self)
        device, dtype = device or self.skip.device, dtype or self.skip.dtype
        return InputHistoryState(
            position=torch.zeros(batch_size, dtype=torch.int64, device=device),
            inputs=torch.zeros(batch_size, self.channels, max_length, device=device, dtype=dtype),
            pending=torch.zeros(
                batch_size, self.channels, max_length, device=device, dtype=full_precision_dtype(dtype)
            ),
        )

    def step(
        self,
        q: Float[Tensor, "batch none"],
        k: Float[Tensor, "batch none"],
        v: Float[Tensor, "batch channel"],
        state: InputHistoryState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Convolves one more token per row; see ``Mixer``."""
        require_grid("v", v, self.channels, axes=0)
        require_rows(v, state)
        require_active(active, v.shape[0])
        refuse_split_state(self.exchange)
        self._check_room(state, 1, active)
        position = state.position if active is None else torch.where(active, state.position, 0)
        index = position[:, None, None].expand(-1, self.channels, 1)
        kept = state.inputs.gather(2, index)
        new = v.unsqueeze(2).to(kept.dtype)
        state.inputs.scatter_(2, index, new if active is None else torch.where(active[:, None, None], new, kept))
        taps = self.taps((state.inputs.shape[2],))[0]
        wide = state.pending.dtype
        y = state.pending.gather(2, index).squeeze(2) + (taps[:, 0] + self.skip).to(wide) * v.to(wide)
        wanted = [True] * len(position) if active is None else active.tolist()
        ends = [start + 1 if is_wanted else -1 for start, is_wanted in zip(position.tolist(), wanted, strict=True)]
        add_due_tiles(state.inputs, state.pending, taps, ends, backend=self.backend)
        return y.to(v.dtype)

    def _check_room(self, state: InputHistoryState, count: int, active: Bool[Tensor, " batch"] | None) -> int:
        """Returns the length of the longest row after ``count`` more tokens."""
        position: Int[Tensor, " rows"] = state.position if active is None else state.position[active]
        end = (int(position.max()) if position.numel() else 0) + count
        if end > state.inputs.shape[2]:
            raise StateCapacityExceeded(
                f"a row holds {end - count} tokens and gets {count} more; its max_length is {state.inputs.shape[2]}"
            )
        return end

    def flop_count(self, length: int | tuple[int, ...], *, cached: bool = False) -> int:
        """Counts filter and envelope (unless ``cached``), three real transforms (two), their product and the skip term.

        A transform of ``n`` real points counts ``2.5 * n * log2(n)``; axes with a zero boundary are padded.
        """
        size = (length,) if isinstance(length, int) else tuple(length)
        spans = self._offsets(size)
        taps, points = math.prod(len(span) for span in spans), 1
        for axis, (boundary, span) in enumerate(zip(self.boundary, spans, strict=True)):
            beyond = len(span) - 1 if self.causal else len(span) // 2
            points *= size[axis] if boundary == "circular" else fast_fft_size(size[axis] + beyond)
        transform = 2.5 * points * math.log2(max(points, 2))
        convolution = self.channels * ((2 if cached else 3) * transform + 3 * points + 2 * math.prod(size))
        made = 0 if cached else self.filter.flop_count(taps)  # pyright: ignore[reportCallIssue]
        if self.modulation is not None and not cached:
            made += self.modulation.flop_count(taps) + taps * self.channels
        return round(convolution) + made


def _reach(size: int, extent: Extent) -> int:
    """Taps on one side, the centre counted."""
    return size if extent == "double" else (size + 1) // 2


def _check_axes(
    data_dim: int,
    causal: bool,
    boundary: Boundary | Sequence[Boundary],
    extent: Extent | Sequence[Extent] | None,
) -> tuple[tuple[Boundary, ...], tuple[Extent, ...]]:
    boundaries = (boundary,) * data_dim if isinstance(boundary, str) else tuple(boundary)
    if extent is None:
        extents = tuple("single" if name == "circular" else "double" for name in boundaries)
    else:
        extents = (extent,) * data_dim if isinstance(extent, str) else tuple(extent)
    for name, values, accepted in (
        ("boundary", boundaries, ("zero", "circular")),
        ("extent", extents, ("double", "single")),
    ):
        if len(values) != data_dim or not set(values) <= set(accepted):
            raise ConfigurationError(f"{name} is {values!r}; accepted are {accepted}, one or {data_dim} of them")
    if causal and (data_dim != 1 or boundaries != ("zero",) or extents != ("double",)):
        raise ConfigurationError(
            f"a causal convolution over {data_dim} axes with boundary {boundaries} and extent {extents}; "
            "accepted is one axis with 'zero' and 'double'"
        )
    if any(name == "circular" and kind == "double" for name, kind in zip(boundaries, extents, strict=True)):
        raise ConfigurationError(f"extent is {extents} with boundary {boundaries}; a circular axis takes 'single'")
    return boundaries, extents  # type: ignore[return-value]
