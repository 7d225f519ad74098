"""Mamba over one, two or three axes: a gate behind selective scans along the flattened points."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.modules.errors import ConfigurationError
from subquad.modules.exchange import SequenceExchange, refuse_split_state, sequence_exchange
from subquad.modules.mixers.selective_branch import Mamba1Branch, Mamba2Branch
from subquad.modules.mixers.selective_state import SelectiveState
from subquad.modules.mixers.split_recurrence import ReversedExchange
from subquad.modules.mixers.stateless import refuse_state
from subquad.modules.parts.full_precision import full_precision_dtype
from subquad.modules.parts.placement import Placement
from subquad.modules.widths import require_streams

ScanOrder = Literal["raster", "axes"]
_NORM_EPSILON = 1e-5


class Mamba(nn.Module):
    """Scans v along one or more orders of its points and gates the sum: ``y = norm(sum(scan(v)) * silu(q))``.

    Only version 2 has a norm, of the root mean square of the channels of each group. With the projections of
    ``QKVSequenceMixer`` around it this is the Mamba block: q brings the gate, v what is scanned, and k what version 2
    makes its weights and step sizes of (nothing for version 1). q, v and the output have ``expansion * channels``
    channels (``stream_channels``, ``output_channels``).

    Over one axis, without ``bidirectional``, it is causal and its state does not grow with the length. Otherwise each
    scan has parameters of its own.

    Args:
      channels: Channels of the block around it.
      version: 1 or 2; see ``Mamba1Branch`` and ``Mamba2Branch``.
      data_dim: Axes of space, 1 to 3.
      scan_order: ``"raster"`` for one scan, the last axis fastest; ``"axes"`` for one scan per axis, that axis fastest.
      bidirectional: Whether there is also a scan backwards for each.
      expansion: Scanned channels per channel.
      state_size: States of a channel; None for 16 (version 1) or 64 (version 2).
      step_rank: Version 1 only; None for a sixteenth of the channels, rounded up.
      head_size: Version 2 only; channels of a head.
      num_groups: Version 2 only; sets of weights, which heads share.
      filter_size: Taps of the short convolution.
      chunk_size: Samples scanned at a time and recomputed in backward, so that the portable scan does not keep a state
        for each of a long sequence; None for all.
      backend: See ``selective_scan``.
      exchange: Where the rest of a split sequence is, over one axis; None for a sequence on one rank.

    Raises:
      ConfigurationError: An argument is out of its range, or sizes do not divide.

    Source: Gu and Dao, 2023; Dao and Gu, 2024; scans of grids after Zhu et al., Vision Mamba, 2024, and Liu et al.,
    VMamba, 2024.
    """

    norm_scale: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        version: Literal[1, 2] = 1,
        data_dim: int = 1,
        scan_order: ScanOrder = "raster",
        bidirectional: bool = False,
        expansion: int = 2,
        state_size: int | None = None,
        step_rank: int | None = None,
        head_size: int = 64,
        num_groups: int = 1,
        filter_size: int = 4,
        chunk_size: int | None = None,
        backend: str = "auto",
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if version not in (1, 2) or scan_order not in ("raster", "axes") or data_dim not in (1, 2, 3):
            raise ConfigurationError(
                f"version is {version!r}, scan_order {scan_order!r}, data_dim {data_dim!r}; accepted are 1 and 2, "
                "'raster' and 'axes', 1 to 3 axes"
            )
        state_size = (16 if version == 1 else 64) if state_size is None else state_size
        step_rank = -(-channels // 16) if step_rank is None else step_rank
        if min(channels, expansion, state_size, step_rank) < 1:
            raise ConfigurationError(
                f"channels is {channels}, expansion {expansion}, state_size {state_size}, step_rank {step_rank}; "
                "each must be at least 1"
            )
        self.channels, self.inner_size, self.data_dim = channels, expansion * channels, data_dim
        self.scan_order, self.bidirectional = scan_order, bidirectional
        self.causal = data_dim == 1 and not bidirectional
        self.exchange = sequence_exchange(exchange, data_dim)
        if chunk_size is not None and chunk_size < 1:
            raise ConfigurationError(f"chunk_size is {chunk_size}; accepted are 1 or more samples, or None for all")
        shared = {"state_size": state_size, "filter_size": filter_size, "chunk_size": chunk_size, "backend": backend}
        place = Placement(device=device, dtype=dtype)
        self.scans = nn.ModuleList(
            Mamba1Branch(self.inner_size, step_rank=step_rank, **shared, **place)
            if version == 1
            else Mamba2Branch(self.inner_size, head_size=head_size, num_groups=num_groups, **shared, **place)
            for _ in self._orders()
        )
        self.num_groups = num_groups
        scale = nn.Parameter(torch.ones(self.inner_size, device=device, dtype=dtype)) if version == 2 else None
        self.register_parameter("norm_scale", scale)

    def _orders(self) -> list[tuple[int, bool]]:
        """Returns the fastest axis, counted from the front, and whether it runs backwards, of every scan."""
        axes = [self.data_dim - 1] if self.scan_order == "raster" else list(range(self.data_dim))
        return [(axis, reverse) for axis in axes for reverse in ((False, True) if self.bidirectional else (False,))]

    @property
    def stream_channels(self) -> tuple[int, int, int]:
        """Channels of q, k and v that the mixer takes."""
        return (self.inner_size, self._branches()[0].control_channels, self.inner_size)

    @property
    def output_channels(self) -> int:
        """Channels of the output."""
        return self.inner_size

    def _branches(self) -> list[Mamba1Branch | Mamba2Branch]:
        return list(self.scans)  # type: ignore[arg-type]

    def forward(
        self,
        q: Float[Tensor, "batch *space inner"],
        k: Float[Tensor, "batch *space control"],
        v: Float[Tensor, "batch *space inner"],
        *,
        state: SelectiveState | None = None,
    ) -> Float[Tensor, "batch *space inner"]:
        """Mixes whole grids, or the next chunk of the sequences in ``state``; see ``Mixer``.

        Raises:
          InputMismatch: A stream has another number of channels or axes, or other points than the rest.
          ExchangeUnsupported: A state was given, but the sequence is split over ranks.
        """
        require_streams(q, k, v, self.stream_channels, axes=self.data_dim, state=state)
        if state is not None:
            refuse_split_state(self.exchange)
            return self._gated(self._branches()[0](v, k, state), q)
        y = None
        for branch, (axis, reverse) in zip(self._branches(), self._orders(), strict=True):
            exchange = ReversedExchange(self.exchange) if reverse else self.exchange
            line = branch(_line(v, axis, reverse), _line(k, axis, reverse), exchange=exchange)
            part = _grid(line, v.shape, axis, reverse)
            y = part if y is None else y + part
        assert y is not None
        return self._gated(y, q)

    def _gated(self, y: Float[Tensor, "... inner"], q: Float[Tensor, "... inner"]) -> Float[Tensor, "... inner"]:
        y = y * functional.silu(q)
        if self.norm_scale is None:
            return y
        wide = y.to(full_precision_dtype(y.dtype)).unflatten(-1, (self.num_groups, -1))
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + _NORM_EPSILON)
        return (wide.flatten(-2) * self.norm_scale).to(y.dtype)

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> SelectiveState:
        """Returns a zero state, which does not grow with ``max_length``; ``dtype`` is that of the ring.

        Raises:
          StateUnsupported: The mixer is not causal.
        """
        if not self.causal:
            refuse_state(self)
        branch = self._branches()[0]
        device = branch.D.device if device is None else torch.device(device)
        return branch.init_state(batch_size, device, dtype or branch.conv.taps.dtype)

    def step(
        self,
        q: Float[Tensor, "batch inner"],
        k: Float[Tensor, "batch control"],
        v: Float[Tensor, "batch inner"],
        state: SelectiveState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch inner"]:
        """Mixes one more token per row; see ``Mixer``."""
        require_streams(q, k, v, self.stream_channels, axes=0, state=state)
        refuse_split_state(self.exchange)
        rows = torch.ones_like(state.position, dtype=torch.bool) if active is None else active
        y = self._branches()[0](v.unsqueeze(1), k.unsqueeze(1), state, rows)
        return self._gated(y.squeeze(1), q)

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts all scans and the gate on one sample."""
        points = length if isinstance(length, int) else math.prod(length)
        scans = sum(branch.flop_count(points) for branch in self._branches())
        return scans + points * self.inner_size * (2 if self.norm_scale is None else 6)


def _line(x: Float[Tensor, "batch *space channel"], axis: int, reverse: bool) -> Float[Tensor, "batch points channel"]:
    """Flattens a grid with one axis fastest."""
    x = x.movedim(axis + 1, -2).flatten(1, -2)
    return x.flip(1) if reverse else x


def _grid(
    y: Float[Tensor, "batch points channel"], shape: torch.Size, axis: int, reverse: bool
) -> Float[Tensor, "batch *space channel"]:
    """Undoes ``_line`` for a grid of a shape."""
    size = list(shape[1:-1])
    size.append(size.pop(axis))
    return (y.flip(1) if reverse else y).unflatten(1, size).movedim(-2, axis + 1)
