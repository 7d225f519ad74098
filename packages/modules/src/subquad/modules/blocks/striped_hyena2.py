"""The two kinds of residual block of StripedHyena 2: around a Hyena mixer, and around attention."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NotRequired

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.modules.blocks.decode_step import (
    linear_through,
    mlp_through,
    next_weight,
    prepared_linear,
    prepared_mlp,
    step_projection,
)
from subquad.modules.channel_shards import ChannelShards, WholeChannels, share_of
from subquad.modules.errors import FusedOperatorsUnavailable
from subquad.modules.exchange import SequenceExchange
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.attention import Attention, last_positions
from subquad.modules.mixers.fir import FIRState, HyenaMedium, HyenaShort
from subquad.modules.mixers.fused_operators import fused_refusal, mix_one_by_one
from subquad.modules.mixers.modal import HyenaLong, ModalState
from subquad.modules.mixers.paged_key_values import PagedKeyValueState
from subquad.modules.parts.fp8_linear import linear_without_bias
from subquad.modules.parts.gated_mlp import GatedMLP
from subquad.modules.parts.initialization import reset_constant, reset_normal
from subquad.modules.parts.linear_layouts import product_channels_first, product_of_channels_first
from subquad.modules.parts.placement import Placement
from subquad.modules.parts.registered import registered
from subquad.modules.parts.rms_norm import NormForm, RMSNorm
from subquad.modules.parts.rounded_linear import RoundedLinear
from subquad.modules.widths import require_grid, require_part
from subquad.ops import RoundedRows, rounded_rows


class BlockOptions(Placement):
    """What `HyenaBlock` and `AttentionBlock` are told beside their mixer; see ``GatedMLP`` and ``RMSNorm``.

    Attributes:
      inner_size: Units inside the MLP, those of all ``shards`` together.
      activation: Of the MLP; Evo 2 has ``"gelu"`` in its first block and ``"identity"`` in all others.
      eps: What keeps the norms from dividing by zero.
      norm_form: Where ``eps`` is added.
      fp8_projections: Whether the input projection of a Hyena block is rounded to FP8; default: no.
      shards: The ranks that share the block; default: one that holds all of it.
      device, dtype: Of the parameters; None for the defaults of torch.
    """

    inner_size: int
    activation: Literal["gelu", "identity"]
    eps: float
    norm_form: NormForm
    fp8_projections: NotRequired[bool]
    shards: NotRequired[ChannelShards]


class StripedHyena2Block(nn.Module, ABC):
    """Adds a mixer branch, then an MLP branch, behind norms: ``u = mix(norm(x)) + x; y = mlp(norm(u)) + u``.

    Subclasses supply ``mix`` and ``mix_step``, and name the linears at both ends of their mixer.
    """

    pre_norm: RMSNorm = registered("module")
    post_norm: RMSNorm = registered("module")
    mlp: GatedMLP = registered("module")

    def __init__(self, channels: int, options: BlockOptions) -> None:
        super().__init__()
        place = Placement(device=options["device"], dtype=options["dtype"])
        self.pre_norm = RMSNorm(channels, eps=options["eps"], form=options["norm_form"], **place)
        self.post_norm = RMSNorm(channels, eps=options["eps"], form=options["norm_form"], **place)
        self.shards: ChannelShards = options.get("shards", WholeChannels())
        inner = share_of(options["inner_size"], "inner units of the MLP", self.shards)
        self.mlp = GatedMLP(channels, inner, activation=options["activation"], **place)

    @property
    @abstractmethod
    def mixer(self) -> HyenaShort | HyenaMedium | HyenaLong | Attention:
        """The mixer of this block."""

    @abstractmethod
    def mix(
        self,
        x: Float[Tensor, "batch length channel"],
        state: MixerState | None,
        starts: list[int] | None,
        wanted: int | None,
        padding: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch wanted channel"]:
        """Mixes normalised input over the sequence; see ``forward`` for ``wanted``."""

    @abstractmethod
    def mix_rounded(
        self,
        rows: RoundedRows,
        dtype: torch.dtype,
        state: MixerState | None,
        starts: list[int] | None,
        wanted: int | None,
        padding: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch wanted channel"]:
        """Mixes normalised input that is rounded, through linears with weights of one byte."""

    @property
    @abstractmethod
    def inward(self) -> nn.Module:
        """The linear in front of the mixer."""

    @property
    @abstractmethod
    def outward(self) -> nn.Module:
        """The linear behind the mixer."""

    @abstractmethod
    def mix_step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, active: Bool[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch mixed"]:
        """Normalises and mixes one token per row, up to the linear behind the mixer, whose width it gives."""

    @abstractmethod
    def prepare_mix_step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, active: Bool[Tensor, " batch"] | None
    ) -> Callable[[Tensor], Tensor]:
        """Returns ``mix_step`` as a function of x; see ``prepare_step``."""

    def forward(
        self,
        x: Float[Tensor, "batch length channel"],
        state: MixerState | None = None,
        starts: list[int] | None = None,
        wanted: int | None = None,
        padding: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch wanted channel"]:
        """Transforms whole sequences, or the next chunk of the sequences in ``state``.

        ``starts`` is ``state.position`` on the host where it was read already; see ``Attention.attend``. With
        ``padding``, sequences begin behind it, where ``x`` is zero; see ``Attention.attend_padded``. The result is
        that of the last ``wanted`` positions (None: of all), and what only others need is not computed.

        Raises:
          InputMismatch: ``x`` has another number of channels or axes.
        """
        pre_norm, post_norm, mlp, shards = self.pre_norm, self.post_norm, self.mlp, self.shards
        require_grid("x", x, pre_norm.channels, axes=1)
        if self._is_rounded(x):
            rows, _ = pre_norm.rounded(x)
            mixed = shards.total(self.mix_rounded(rows, x.dtype, state, starts, wanted, padding))
            rows, total = post_norm.rounded(last_positions(x, 1, wanted), mixed)
            return total + shards.total(mlp.of_rounded(rows, dtype=x.dtype))
        mixed = shards.total(self.mix(pre_norm(x), state, starts, wanted, padding))
        normed, total = post_norm.of_sum(last_positions(x, 1, wanted), mixed)
        return mlp.add_to(total, normed) if shards.size == 1 else total + shards.total(mlp(normed))

    def step(
        self,
        x: Float[Tensor, "batch channel"],
        state: MixerState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
        upcoming: Tensor | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Transforms one more token per row; ``upcoming`` are the weights that are read behind this block.

        Raises:
          InputMismatch: ``x`` has another number of channels or axes.
        """
        require_grid("x", x, self.pre_norm.channels, axes=0)
        y = self.mix_step(x, state, active)
        once = self.shards.rank == 0
        y = linear_through(self.outward, y, residual=x if once else None, upcoming=next_weight(self.mlp.l1, x))
        x = self.shards.total(y)
        y = mlp_through(self.mlp, x, norm=self.post_norm, residual=x if once else None, upcoming=upcoming)
        return self.shards.total(y)

    def prepare_step(
        self,
        x: Float[Tensor, "batch channel"],
        state: MixerState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """Returns ``step`` as a function of inputs like x, checked here once; see ``StripedHyena2.prepare_step``.

        Raises:
          InputMismatch: ``x`` has another number of channels or axes.
        """
        require_grid("x", x, self.pre_norm.channels, axes=0)
        once, total = self.shards.rank == 0, self.shards.total
        mix = self.prepare_mix_step(x, state, active)
        mixed = x.new_zeros(x.shape[0], self.mixer.channels)
        outward = prepared_linear(self.outward, mixed, residual=x if once else None)
        mlp = prepared_mlp(self.mlp, x, norm=self.post_norm, has_residual=once)

        def step(x: Tensor) -> Tensor:
            y = mix(x)
            return total(mlp(total(outward(y, residual=x) if once else outward(y))))

        return step

    def _is_rounded(self, x: Tensor) -> bool:
        """Says whether every linear of this block has weights of one byte, so that norms and gates round for them."""
        if type(self.inward) is not RoundedLinear or (torch.is_grad_enabled() and x.requires_grad):
            return False
        mlp = self.mlp
        return (
            type(self.outward) is RoundedLinear
            and type(mlp.l1) is RoundedLinear
            and type(mlp.l2) is RoundedLinear
            and type(mlp.l3) is RoundedLinear
        )

    def reset_linears(
        self, inward: list[nn.Linear], outward: list[nn.Linear], depth: int, generator: torch.Generator | None
    ) -> None:
        """Draws linears of deviation ``sqrt(2 / (5 * channel))`` inward, ``2 / (depth * sqrt(channel))`` outward."""
        channels = self.pre_norm.scale.shape[0]
        for linear in (*inward, self.mlp.l1, self.mlp.l2):
            reset_normal(linear.weight, (2 / (5 * channels)) ** 0.5, generator)
        for linear in (*outward, self.mlp.l3):
            reset_normal(linear.weight, 2 / (depth * channels**0.5), generator)
            reset_constant(linear.bias, 0.0)
        for norm in (self.pre_norm, self.post_norm):
            reset_constant(norm.scale, 1.0)


class HyenaBlock(StripedHyena2Block):
    """A block around a Hyena mixer, which owns the short projection convolution too.

    Args:
      channels: Size of the residual stream.
      mixer: ``HyenaShort``, ``HyenaMedium`` or ``HyenaLong`` with projection taps, over this rank's channels; stored as
        ``filter``.
      options: Sizes and forms of the rest.

    Attributes:
      use_subquadratic_ops: See ``StripedHyena2``.
    """

    projections: nn.Linear = registered("module")
    filter: HyenaShort | HyenaMedium | HyenaLong = registered("module")
    out_filter_dense: nn.Linear = registered("module")

    def __init__(self, channels: int, mixer: HyenaShort | HyenaMedium | HyenaLong, options: BlockOptions) -> None:
        own = share_of(channels, "channels", options.get("shards", WholeChannels()))
        require_part("mixer", mixer, own)
        super().__init__(channels, options)
        place = Placement(device=options["device"], dtype=options["dtype"])
        self.projections = linear_without_bias(
            channels, 3 * mixer.channels, fp8=options.get("fp8_projections", False), place=place
        )
        self.filter = mixer
        self.out_filter_dense = nn.Linear(mixer.channels, channels, bias=self.shards.rank == 0, **place)
        self.use_subquadratic_ops: bool | None = None

    @property
    def mixer(self) -> HyenaShort | HyenaMedium | HyenaLong:
        """The mixer of this block."""
        return self.filter

    @property
    def projection_taps(self) -> Float[Tensor, "rows tap"]:
        """The taps of the short convolution behind the projection."""
        taps = self.filter.projection_taps
        assert taps is not None
        return taps

    def mix(
        self,
        x: Float[Tensor, "batch length channel"],
        state: MixerState | None,
        starts: list[int] | None,
        wanted: int | None,
        padding: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch wanted channel"]:
        """Projects, convolves, gates and filters."""
        y = last_positions(
            self._filtered(product_channels_first(self.projections, x), state, starts, padding), 2, wanted
        )
        return product_of_channels_first(self.out_filter_dense, y)

    def mix_rounded(
        self,
        rows: RoundedRows,
        dtype: torch.dtype,
        state: MixerState | None,
        starts: list[int] | None,
        wanted: int | None,
        padding: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch wanted channel"]:
        """Does the same with weights of one byte; what is filtered is not rounded."""
        assert isinstance(self.projections, RoundedLinear)
        z = self.projections.channels_first(rows, dtype=dtype)
        y = last_positions(self._filtered(z, state, starts, padding), 2, wanted)
        return self.out_filter_dense(rounded_rows(y, layout="BHL"), dtype=dtype)

    def _filtered(
        self,
        z: Float[Tensor, "batch rows length"],
        state: MixerState | None,
        starts: list[int] | None,
        padding: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch channel length"]:
        """Convolves, gates and filters."""
        assert state is None or isinstance(state, FIRState | ModalState)
        mixer, taps = self.filter, self.projection_taps
        if self.use_subquadratic_ops is False:
            return mix_one_by_one(mixer, z, taps, state)
        if self.use_subquadratic_ops:
            self.require_subquadratic_ops(z)
        fresh = padding is not None or (starts is not None and not any(starts))
        y, _ = mixer.forward_projected(z, taps, state=state, fresh=fresh)  # pyright: ignore[reportArgumentType]
        return y

    def require_subquadratic_ops(self, z: Float[Tensor, "batch rows length"]) -> None:
        """Refuses projected input that no fused kernel takes.

        Raises:
          FusedOperatorsUnavailable: Says why.
        """
        refusal = fused_refusal(self.filter, z, self.projection_taps)
        if refusal is not None:
            kind = type(self.filter).__name__
            raise FusedOperatorsUnavailable(f"use_subquadratic_ops is True, but {kind} cannot run fused: {refusal}")

    @property
    def inward(self) -> nn.Module:
        """The linear that makes q, k and v, three rows a channel."""
        return self.projections

    @property
    def outward(self) -> nn.Module:
        """The linear behind the last gate."""
        return self.out_filter_dense

    def mix_step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, active: Bool[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch mixed"]:
        """Does the same for one token per row, as one operator where the projection is a plain one."""
        projection = step_projection(self.projections, self.pre_norm, x)
        z = x if projection is not None else self.projections(self.pre_norm(x))
        following = next_weight(self.out_filter_dense, x)
        if isinstance(self.filter, HyenaLong):
            assert isinstance(state, ModalState)
            return self.filter.step_projected(z, state, projection=projection, active=active, upcoming=following)
        assert isinstance(state, FIRState)
        return self.filter.step_projected(z, state, projection=projection, active=active, upcoming=following)

    def prepare_mix_step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, active: Bool[Tensor, " batch"] | None
    ) -> Callable[[Tensor], Tensor]:
        """Prepares the same, from ``[batch, channel]`` to ``[batch, mixed]``."""
        projection = step_projection(self.projections, self.pre_norm, x)
        z = x if projection is not None else x.new_zeros(x.shape[0], 3 * self.filter.channels)
        if isinstance(self.filter, HyenaLong):
            assert isinstance(state, ModalState)
            run = self.filter.prepare_step_projected(z, state, projection=projection, active=active)
        else:
            assert isinstance(state, FIRState)
            run = self.filter.prepare_step_projected(z, state, projection=projection, active=active)
        return run if projection is not None else lambda x: run(self.projections(self.pre_norm(x)))

    def reset_parameters(self, depth: int, generator: torch.Generator | None = None) -> None:
        """Draws all parameters for a network of ``depth`` blocks."""
        self.reset_linears([self.projections], [self.out_filter_dense], depth, generator)
        self.filter.reset_parameters(generator)


class ProjectedAttention(Attention):
    """Attention together with its projections, under the names that checkpoints use.

    The rows of ``Wqkv`` are head-major: ``[head, (q, k, v), size]``. Arguments are those of ``Attention``, channels and
    heads those of all ``shards`` together. ``project`` makes what the mixer takes, ``out_proj`` follows it.

    Raises:
      ConfigurationError: The heads or channels cannot be dealt out evenly, or the heads have no even size.
    """

    Wqkv: nn.Linear = registered("module")
    out_proj: nn.Linear = registered("module")

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        rotary_base: float = 1e4,
        rotary_scale: float = 1.0,
        exchange: SequenceExchange | None = None,
        shards: ChannelShards | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place = Placement(device=device, dtype=dtype)
        shards = WholeChannels() if shards is None else shards
        heads = share_of(num_heads, "attention heads", shards)
        own = share_of(channels, "channels", shards)
        super().__init__(
            own,
            num_heads=heads,
            rotary_base=rotary_base,
            rotary_scale=rotary_scale,
            exchange=exchange,
            **place,
        )
        self.Wqkv = nn.Linear(channels, 3 * own, bias=False, **place)
        self.out_proj = nn.Linear(own, channels, bias=shards.rank == 0, **place)

    def project(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... head 3 size"]:
        """Makes queries, keys and values, not yet rotated."""
        return self.Wqkv(x).unflatten(-1, (self.num_heads, 3, self.head_size))


class AttentionBlock(StripedHyena2Block):
    """A block around causal attention.

    Args:
      channels: Size of the residual stream.
      mixer: The attention; stored as ``inner_mha_cls``.
      options: Sizes and forms of the rest.
    """

    inner_mha_cls: ProjectedAttention = registered("module")

    def __init__(self, channels: int, mixer: ProjectedAttention, options: BlockOptions) -> None:
        own = share_of(channels, "channels", options.get("shards", WholeChannels()))
        require_part("mixer", mixer, own)
        super().__init__(channels, options)
        self.inner_mha_cls = mixer

    @property
    def mixer(self) -> ProjectedAttention:
        """The mixer of this block."""
        return self.inner_mha_cls

    def mix(
        self,
        x: Float[Tensor, "batch length channel"],
        state: MixerState | None,
        starts: list[int] | None,
        wanted: int | None,
        padding: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch wanted channel"]:
        """Projects, attends and projects back."""
        attention = self.inner_mha_cls
        y = self._attended(attention.project(x), state, starts, wanted, padding)
        return attention.out_proj(y.flatten(2))

    def mix_rounded(
        self,
        rows: RoundedRows,
        dtype: torch.dtype,
        state: MixerState | None,
        starts: list[int] | None,
        wanted: int | None,
        padding: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch wanted channel"]:
        """Does the same with weights of one byte; queries, keys and values are not rounded."""
        attention = self.inner_mha_cls
        qkv = attention.Wqkv(rows, dtype=dtype).unflatten(-1, (attention.num_heads, 3, attention.head_size))
        y = self._attended(qkv, state, starts, wanted, padding)
        return attention.out_proj(rounded_rows(y.flatten(2)), dtype=dtype)

    def _attended(
        self,
        qkv: Float[Tensor, "batch length head 3 size"],
        state: MixerState | None,
        starts: list[int] | None,
        wanted: int | None,
        padding: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch wanted head size"]:
        """Attends in the way that the rows need."""
        assert state is None or isinstance(state, PagedKeyValueState)
        if padding is None:
            return self.inner_mha_cls.attend(qkv, state, starts, wanted)
        assert state is not None
        return self.inner_mha_cls.attend_padded(qkv, state, padding, wanted)

    @property
    def inward(self) -> nn.Module:
        """The linear that makes queries, keys and values."""
        return self.inner_mha_cls.Wqkv

    @property
    def outward(self) -> nn.Module:
        """The linear behind the heads."""
        return self.inner_mha_cls.out_proj

    def mix_step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, active: Bool[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch mixed"]:
        """Does the same for one token per row."""
        assert isinstance(state, PagedKeyValueState)
        attention = self.inner_mha_cls
        rows = linear_through(attention.Wqkv, x, norm=self.pre_norm, upcoming=next_weight(attention.out_proj, x))
        qkv = rows.unflatten(-1, (attention.num_heads, 3, attention.head_size))
        return attention.step_heads(qkv, state, active=active).flatten(1)

    def prepare_mix_step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, active: Bool[Tensor, " batch"] | None
    ) -> Callable[[Tensor], Tensor]:
        """Prepares the same, from ``[batch, channel]`` to ``[batch, mixed]``."""
        assert isinstance(state, PagedKeyValueState)
        attention = self.inner_mha_cls
        shape = (attention.num_heads, 3, attention.head_size)
        inward = prepared_linear(attention.Wqkv, x, norm=self.pre_norm)
        attend = attention.prepare_step_heads(x.new_zeros(x.shape[0], *shape), state, active=active)
        return lambda x: attend(inward(x).unflatten(-1, shape)).flatten(1)

    def reset_parameters(self, depth: int, generator: torch.Generator | None = None) -> None:
        """Draws all parameters for a network of ``depth`` blocks."""
        self.reset_linears([self.inner_mha_cls.Wqkv], [self.inner_mha_cls.out_proj], depth, generator)
        self.inner_mha_cls.rotary_emb.reset_parameters()
