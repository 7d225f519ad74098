"""Hyena over one, two or three axes: gates around a convolution with an implicit filter."""

import dataclasses
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate, target_of
from subquad.modules.errors import ConfigurationError
from subquad.modules.exchange import SequenceExchange, refuse_split_state
from subquad.modules.mixers.ckconv import CKConv, InputHistoryState
from subquad.modules.mixers.stateless import refuse_state
from subquad.modules.parts.short_convolution import ShortConvolution
from subquad.modules.widths import require_part, require_streams


@dataclasses.dataclass
class HyenaState(InputHistoryState):
    """What a causal Hyena remembers: gated inputs of the long filter, and the last ones of the short filter.

    Attributes:
      inputs: See ``InputHistoryState``.
      pending: Likewise.
      projection: Ring of the short filter, ``[batch, 3 * channel, tap - 1]``; None without a short filter.
    """

    projection: Tensor | None


class Hyena(nn.Module):
    """Gates, convolves and gates: ``y = output_norm(conv(pixel_norm(q * gate(k))) * output_gate(v))``.

    Before that, q, k and v go through a short convolution (channels ``[q, k, v]``, one after the other), q through
    ``q_norm``, and k through ``k_norm`` if ``gate`` is the identity.

    Args:
      channels: Number of channels.
      global_conv_cfg: Configuration of a ``CKConv``; ``channels`` is filled in.
      short_conv_cfg: Configuration of a ``ShortConvolution``, whose channels are filled in; None for none.
      gate_cfg: Configuration of the activation of k; None for the identity.
      output_gate_cfg: Configuration of the activation of v; None for that of k.
      pixel_norm_cfg: Configuration of a norm over channels, or None.
      qk_norm_cfg: Configuration of the norm of q (and of k), or None.
      output_norm_cfg: Configuration of the last norm, or None.
      exchange: See ``CKConv``.

    Raises:
      ConfigurationError: The long convolution is causal and another part is not, or numbers of axes or channels differ.

    Source: Poli et al., Hyena hierarchy: towards larger convolutional language models, 2023.
    """

    def __init__(
        self,
        channels: int,
        global_conv_cfg: Config[CKConv],
        *,
        short_conv_cfg: Config[ShortConvolution] | None = None,
        gate_cfg: Config[nn.Module] | None = None,
        output_gate_cfg: Config[nn.Module] | None = None,
        pixel_norm_cfg: Config[nn.Module] | None = None,
        qk_norm_cfg: Config[nn.Module] | None = None,
        output_norm_cfg: Config[nn.Module] | None = None,
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.global_conv = instantiate(
            global_conv_cfg, channels=channels, exchange=exchange, device=device, dtype=dtype
        )
        self.short_conv = None
        if short_conv_cfg is not None:
            _check_target(target_of(short_conv_cfg))
            self.short_conv = instantiate(short_conv_cfg, channels=3 * channels, device=device, dtype=dtype)
        self.gate = _built(gate_cfg)
        self.output_gate = self.gate if output_gate_cfg is None else instantiate(output_gate_cfg)
        self.pixel_norm, self.output_norm = _built(pixel_norm_cfg), _built(output_norm_cfg)
        self.q_norm = _built(qk_norm_cfg)
        self.k_norm = _built(qk_norm_cfg if isinstance(self.gate, nn.Identity) else None)
        self._check_parts()
        self.to(device=device, dtype=dtype)

    def _check_parts(self) -> None:
        norms = {"pixel_norm_cfg": self.pixel_norm, "qk_norm_cfg": self.q_norm, "output_norm_cfg": self.output_norm}
        for name, norm in norms.items():
            require_part(name, norm, self.channels)
        short = self.short_conv
        if short is not None and short.data_dim != self.global_conv.data_dim:
            raise ConfigurationError(
                f"short_conv_cfg has {short.data_dim} axes, global_conv_cfg {self.global_conv.data_dim}, not as many"
            )
        if self.global_conv.causal:
            if short is not None and not short.causal:
                raise ConfigurationError(
                    "the long convolution is causal, but the short one is not and would show it the future; "
                    "set causal=True in short_conv_cfg"
                )
            for name, part in self.named_modules():
                if getattr(part, "spans_positions", False):
                    raise ConfigurationError(
                        f"the long convolution is causal, but {name} ({type(part).__name__}) sees all positions at once"
                    )

    @property
    def takes_condition(self) -> bool:
        """Whether filters may depend on a condition."""
        return self.global_conv.takes_condition

    def forward(
        self,
        q: Float[Tensor, "batch *space channel"],
        k: Float[Tensor, "batch *space channel"],
        v: Float[Tensor, "batch *space channel"],
        *,
        state: HyenaState | None = None,
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Mixes whole grids, or the next chunk of the sequences in ``state``; see ``Mixer``.

        Raises:
          InputMismatch: A stream has another number of channels or axes, or other points than the rest.
          StateUnsupported: A state and a condition, which makes another filter, were given.
        """
        require_streams(q, k, v, self.channels, axes=self.global_conv.data_dim, state=state)
        if state is not None and condition is not None:
            refuse_state(self, "a condition makes another filter")
        if self.short_conv is not None:
            z = torch.cat([q, k, v], dim=-1)
            if state is None:
                z = self.short_conv(z, exchange=self.global_conv.exchange)
            else:
                refuse_split_state(self.global_conv.exchange)
                assert state.projection is not None
                z = self.short_conv.continue_with(z, state.projection, state.position)
            q, k, v = z.chunk(3, dim=-1)
        gated = self._gated(q, k)
        if state is None:
            h = self.global_conv.convolve(gated, condition)
        else:
            h = self.global_conv.continue_with(gated.transpose(1, 2), state).transpose(1, 2)
        return self.output_norm(h * self.output_gate(v))

    def _gated(self, q: Float[Tensor, "... channel"], k: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        return self.pixel_norm(self.q_norm(q) * self.gate(self.k_norm(k)))

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> HyenaState:
        """Returns room for ``max_length`` inputs a row.

        Raises:
          StateUnsupported: The long convolution is not causal.
        """
        if not self.global_conv.causal:
            refuse_state(self)
        long = self.global_conv.init_state(batch_size, max_length=max_length, device=device, dtype=dtype)
        short = self.short_conv
        past = None if short is None else (batch_size, 3 * self.channels, short.filter_size - 1)
        ring = None if past is None else torch.zeros(past, device=long.inputs.device, dtype=long.inputs.dtype)
        return HyenaState(position=long.position, inputs=long.inputs, pending=long.pending, projection=ring)

    def step(
        self,
        q: Float[Tensor, "batch channel"],
        k: Float[Tensor, "batch channel"],
        v: Float[Tensor, "batch channel"],
        state: HyenaState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Mixes one more token per row; see ``Mixer``."""
        require_streams(q, k, v, self.channels, axes=0, state=state)
        refuse_split_state(self.global_conv.exchange)
        if self.short_conv is not None:
            assert state.projection is not None
            z = self.short_conv.step(torch.cat([q, k, v], dim=-1), state.projection, state.position, active=active)
            q, k, v = z.chunk(3, dim=-1)
        gated = self._gated(q, k)
        none = gated[:, :0]
        h = self.global_conv.step(none, none, gated, state, active=active)
        return self.output_norm(h * self.output_gate(v))

    def flop_count(self, length: int | tuple[int, ...], *, cached: bool = False) -> int:
        """Counts the convolutions, gates, activations (1 a value) and norms (4); ``cached`` as in ``CKConv``."""
        points = length if isinstance(length, int) else math.prod(length)
        short = 0 if self.short_conv is None else self.short_conv.flop_count(points)
        costs = (
            (4, (self.q_norm, self.k_norm, self.pixel_norm, self.output_norm)),
            (1, (self.gate, self.output_gate)),
        )
        each = 2 + sum(cost for cost, parts in costs for part in parts if not isinstance(part, nn.Identity))
        return short + each * points * self.channels + self.global_conv.flop_count(length, cached=cached)


def _built(cfg: Config[nn.Module] | None) -> nn.Module:
    return nn.Identity() if cfg is None else instantiate(cfg)


def _check_target(target: object) -> None:
    if not (isinstance(target, type) and issubclass(target, ShortConvolution)):
        raise ConfigurationError(
            f"short_conv_cfg makes a {getattr(target, '__name__', target)}, of which nothing says whether it sees the "
            "future; accepted is ShortConvolution"
        )
