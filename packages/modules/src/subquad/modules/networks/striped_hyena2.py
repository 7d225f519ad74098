"""StripedHyena 2: the network of Evo 2, of short, medium and long Hyena layers striped with attention."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from subquad.modules.blocks.decode_step import next_weight, step_norm
from subquad.modules.blocks.striped_hyena2 import AttentionBlock, BlockOptions, HyenaBlock, ProjectedAttention
from subquad.modules.channel_shards import ChannelShards, WholeChannels, share_of
from subquad.modules.errors import (
    ConfigurationError,
    ExchangeUnsupported,
    FusedOperatorsUnavailable,
    InputMismatch,
)
from subquad.modules.exchange import LocalExchange, SequenceExchange
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.fir import FilterParameters, HyenaMedium, HyenaShort
from subquad.modules.mixers.modal import HyenaLong
from subquad.modules.networks.striped_hyena2_state import StripedHyena2State, shared_position
from subquad.modules.parts.initialization import reset_constant, reset_normal
from subquad.modules.parts.placement import Placement
from subquad.modules.parts.rms_norm import NormForm, RMSNorm
from subquad.ops import linear_step, prepare

_LAYER_LETTERS = "SDH*"
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_UNROUNDED = (torch.float32, torch.float64)  # types whose sums a logit keeps


def _dtype_of_logits(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype in _UNROUNDED else torch.float32


class _HyenaOptions(Placement):
    """What every Hyena mixer of a network is built with."""

    projection_filter_length: int
    backend: str
    exchange: SequenceExchange | None


class StripedHyena2(nn.Module):
    """A causal language model over bytes of DNA: ``logits = norm(blocks(E[ids])) @ E.T`` with one embedding ``E``.

    Layer ``i`` is what ``pattern[i]`` says: ``S`` a short explicit Hyena filter, ``D`` a medium one, ``H`` a long
    modal one, ``*`` attention. The first block's MLP has a GELU gate, all later ones a bilinear gate. Filters, poles
    and statistics are float32 in a float32 or 16-bit model and float64 in a float64 model; the residual stream has
    the type of the weights.

    Args:
      pattern: One letter per layer.
      hidden_size: Channels of the residual stream.
      num_heads: Attention heads.
      inner_size: Size of the MLP branches.
      filter_groups: Filters per short or medium layer; divides ``hidden_size``.
      vocab_size: Rows of the embedding.
      short_filter_length: Taps of ``S`` layers.
      medium_filter_length: Taps of ``D`` layers.
      projection_filter_length: Taps of the convolution behind the input projection of every Hyena layer.
      state_size: Exponentials per filter of ``H`` layers.
      rotary_base: See ``RotaryEmbedding``.
      rotary_scale: See ``RotaryEmbedding``.
      eps: See ``RMSNorm``.
      norm_form: See ``RMSNorm``.
      filter_parameters: ``"poles"``, the form of inference checkpoints, or ``"p_gamma"``, the form to train.
      use_subquadratic_ops: Whether each Hyena layer runs its projection convolution, gates and filter as one fused
        operator when it reads sequences or chunks: True demands it, False runs them one by one in plain torch, None
        takes what is faster. Can be set later. Decode steps are the same for all three.
      backend: Of the operators of Hyena layers on whole sequences and chunks; see ``gated_conv``.
      fp8_projections: Whether the input projections of Hyena layers are ``FP8Linear``, as checkpoints with
        ``StripedHyena2Preset.needs_fp8`` want it.
      gradient_checkpointing: Whether a block keeps its input alone and is computed again in backward: the same
        gradients, one more forward pass, memory for the inside of one block at a time. May be changed at any time.
      exchange: Where the rest of a split sequence is; None for sequences on one rank.
      shards: The ranks that share every layer, of which this network is one; sizes are those of all ranks together.
        Hyena filters go to the ranks in whole groups, attention in whole heads. None for a network on one rank.

    Raises:
      ConfigurationError: An argument is outside its range or does not fit another; the text names both.

    Source: Ku et al., "Systems and Algorithms for Convolutional Multi-Hybrid Language Models at Scale", arXiv
      2503.01868.
    """

    def __init__(
        self,
        *,
        pattern: str,
        hidden_size: int,
        num_heads: int,
        inner_size: int,
        filter_groups: int,
        vocab_size: int = 512,
        short_filter_length: int = 7,
        medium_filter_length: int = 128,
        projection_filter_length: int = 3,
        state_size: int = 16,
        rotary_base: float = 1e4,
        rotary_scale: float = 1.0,
        eps: float = 1e-6,
        norm_form: NormForm = "vortex",
        filter_parameters: FilterParameters = "poles",
        use_subquadratic_ops: bool | None = None,
        backend: str = "auto",
        fp8_projections: bool = False,
        gradient_checkpointing: bool = False,
        exchange: SequenceExchange | None = None,
        shards: ChannelShards | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(pattern, inner_size, vocab_size, filter_parameters)
        self.pattern = pattern
        self.hidden_size = hidden_size
        self.vocab_size = vocab_size
        self.filter_parameters: FilterParameters = filter_parameters
        self.fp8_projections = fp8_projections
        self.gradient_checkpointing = gradient_checkpointing
        self.exchange: SequenceExchange = LocalExchange() if exchange is None else exchange
        self.shards: ChannelShards = WholeChannels() if shards is None else shards
        own_groups = share_of(filter_groups, "filter groups", self.shards)
        own_channels = share_of(hidden_size, "channels", self.shards)
        place = Placement(device=device, dtype=dtype)
        self.embedding_layer = nn.Embedding(vocab_size, hidden_size, **place)

        hyena = _HyenaOptions(
            projection_filter_length=projection_filter_length, backend=backend, exchange=exchange, **place
        )

        def mixer_of(letter: str) -> HyenaShort | HyenaMedium | HyenaLong:
            if letter == "S":
                return HyenaShort(own_channels, groups=own_groups, filter_length=short_filter_length, **hyena)
            if letter == "D":
                return HyenaMedium(
                    own_channels,
                    groups=own_groups,
                    filter_length=medium_filter_length,
                    filter_parameters=filter_parameters,
                    **hyena,
                )
            return HyenaLong(own_channels, state_size=state_size, filter_parameters=filter_parameters, **hyena)

        def block_of(layer: int, letter: str) -> HyenaBlock | AttentionBlock:
            activation = "gelu" if layer == 0 else "identity"
            options = BlockOptions(inner_size=inner_size, activation=activation, eps=eps, norm_form=norm_form, **place)
            options["fp8_projections"], options["shards"] = fp8_projections, self.shards
            if letter != "*":
                return HyenaBlock(hidden_size, mixer_of(letter), options)
            attention = ProjectedAttention(
                hidden_size,
                num_heads=num_heads,
                rotary_base=rotary_base,
                rotary_scale=rotary_scale,
                exchange=exchange,
                shards=self.shards,
                **place,
            )
            return AttentionBlock(hidden_size, attention, options)

        self.blocks = nn.ModuleList(block_of(layer, letter) for layer, letter in enumerate(pattern))
        self.norm = RMSNorm(hidden_size, eps=eps, form=norm_form, **place)
        self.use_subquadratic_ops = use_subquadratic_ops
        self.reset_parameters()

    @property
    def use_subquadratic_ops(self) -> bool | None:
        """What is asked of the fused operators; setting it changes every Hyena layer."""
        return self._use_subquadratic_ops

    @use_subquadratic_ops.setter
    def use_subquadratic_ops(self, value: bool | None) -> None:
        if value is not None and not isinstance(value, bool):
            raise ConfigurationError(f"use_subquadratic_ops is {value!r}; accepted are None, True and False")
        self._use_subquadratic_ops = value
        for block in self._blocks():
            if isinstance(block, HyenaBlock):
                block.use_subquadratic_ops = value

    def require_subquadratic_ops(self) -> None:
        """Asks every Hyena layer whether a fused kernel runs where its weights are.

        Raises:
          FusedOperatorsUnavailable: Names the first layer where none does, and why.
        """
        for index, block in enumerate(self._blocks()):
            if isinstance(block, HyenaBlock):
                weight = block.projections.weight
                probe = torch.zeros(1, weight.shape[0], 1, device=weight.device, dtype=self.norm.scale.dtype)
                try:
                    block.require_subquadratic_ops(probe)
                except FusedOperatorsUnavailable as error:
                    raise FusedOperatorsUnavailable(f"blocks.{index}: {error}") from None

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all parameters anew, on the CPU and in float32: a seeded generator gives the same weights everywhere.

        Embeddings ``N(0, 0.02 ** 2)``; linears as ``StripedHyena2Block.reset_linears`` says; filters as their mixers
        say.
        """
        reset_normal(self.embedding_layer.weight, 0.02, generator)
        for block in self._blocks():
            block.reset_parameters(len(self.blocks), generator)
        reset_constant(self.norm.scale, 1.0)

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Returns the logits of the next token at every position, in the type of the weights.

        Raises:
          InputMismatch: See ``encode``.
        """
        return self.unembed(self.encode(ids))

    def encode(
        self,
        ids: Int[Tensor, "batch length"],
        state: StripedHyena2State | None = None,
        *,
        starts: list[int] | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Returns the residual stream after the final norm.

        Args:
          ids: Tokens, ``0 <= id < vocab_size``; on a split sequence this rank's runs, concatenated.
          state: When given, its sequences are continued by these tokens, whatever their positions, and it is updated
            in place; a long prompt may so be read in chunks of any sizes.
          starts: ``state.position`` where the caller knows it; reading it from a GPU waits for all that is under way.

        Raises:
          InputMismatch: ``ids`` is no matrix of integers, is empty, cannot be cut into this rank's runs or does not fit
            ``state``.
          StateCapacityExceeded: A row would grow past ``state.max_length``.
          ExchangeUnsupported: ``state`` was given although the sequence is split over ranks.
        """
        _check_ids(ids, 2)
        if ids.shape[1] == 0:
            raise InputMismatch("ids hold no token; a sequence has at least one")
        if state is None:
            x = self.embedding_layer(self._fold(ids))
            again = self.gradient_checkpointing and torch.is_grad_enabled()
            for block in self._blocks():
                x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            return self.norm(self._unfold(x))
        return self._continue(ids, state, starts, None)

    def encode_last(
        self, ids: Int[Tensor, "batch length"], state: StripedHyena2State, *, starts: list[int] | None = None
    ) -> Float[Tensor, "batch channel"]:
        """Does what ``encode`` does with a state and returns the last position alone.

        The last block computes what this position and the state need of it and no more, as fits a prompt of which one
        token is predicted.

        Raises:
          InputMismatch, StateCapacityExceeded, ExchangeUnsupported: As ``encode``.
        """
        _check_ids(ids, 2)
        if ids.shape[1] == 0:
            raise InputMismatch("ids hold no token; a sequence has at least one")
        return self._continue(ids, state, starts, 1)[:, 0]

    def encode_short(
        self, ids: Int[Tensor, "batch length"], state: StripedHyena2State, lengths: list[int]
    ) -> Float[Tensor, "batch channel"]:
        """Reads sequences of different lengths into a new state and returns the last position of each.

        Args:
          ids: Row ``r`` ends with the ``lengths[r]`` tokens of its sequence; what lies before them is not looked at.
          state: Nothing was seen by any row of it; updated in place.
          lengths: 1 to the length of ``ids``. A row's result depends on its own tokens and on the shape of ``ids``.

        Raises:
          InputMismatch: ``lengths`` or ``ids`` do not fit each other or ``state``.
          StateCapacityExceeded, ExchangeUnsupported: As ``encode``.
        """
        length = ids.shape[1]
        if len(lengths) != ids.shape[0] or not all(1 <= own <= length for own in lengths):
            raise InputMismatch(f"lengths are {lengths}; accepted are 1 to {length} for each of {ids.shape[0]} rows")
        self._refuse_split()
        state.require_room(ids.shape[0], length, starts=[own - length for own in lengths])
        own_lengths = torch.tensor(lengths, pin_memory=ids.is_cuda).to(ids.device, non_blocking=True)
        return self.encode_padded(ids, state, own_lengths)

    def encode_padded(
        self, ids: Int[Tensor, "batch length"], state: StripedHyena2State, lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channel"]:
        """Does what ``encode_short`` does with lengths on the device of ``ids``, which nobody looks at on the host.

        So it can be captured in a CUDA graph, and its caller answers for the lengths and for room in the state.
        """
        length = ids.shape[1]
        state.position.copy_(lengths - length)
        padding = torch.arange(length, device=ids.device) < -state.position[:, None]
        x = self.embedding_layer(ids.masked_fill(padding, 0))
        for index, (block, layer) in enumerate(zip(self._blocks(), state.layers, strict=True)):
            x = x.masked_fill(padding[..., None], 0)  # what filters and gates see before a sequence begins
            x = block(x, layer, None, 1 if index == len(self.blocks) - 1 else None, padding)
        state.advance(length)
        return self.norm(x)[:, 0]

    def _continue(
        self, ids: Tensor, state: StripedHyena2State, starts: list[int] | None, wanted: int | None
    ) -> Float[Tensor, "batch wanted channel"]:
        """Continues the sequences of a state; returns the last ``wanted`` positions of the stream, all for None."""
        self._refuse_split()
        starts = state.require_room(ids.shape[0], ids.shape[1], starts=starts)
        x, last = self.embedding_layer(ids), len(self.blocks) - 1
        for index, (block, layer) in enumerate(zip(self._blocks(), state.layers, strict=True)):
            x = block(x, layer, starts, wanted if index == last else None)
        state.advance(ids.shape[1])
        return self.norm(x)

    def _refuse_split(self) -> None:
        if self.exchange.size > 1:
            raise ExchangeUnsupported(
                f"a state cannot be continued on a sequence split over {self.exchange.size} ranks"
            )

    def encode_blocks(
        self,
        ids: Int[Tensor, "batch length"],
        count: int,
        state: StripedHyena2State | None = None,
        *,
        starts: list[int] | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Returns the residual stream after the first ``count`` blocks; later blocks and the final norm are not run.

        Args:
          ids: Tokens, as in ``encode``; whole sequences, not split over ranks.
          count: Blocks to run, 1 to the number of layers.
          state: When given, its sequences are continued and the state of these blocks is updated; it then fits further
            calls with the same ``count`` only.
          starts: As in ``encode``.

        Raises:
          InputMismatch: ``count`` is outside its range, or ``ids`` is empty or does not fit ``state``.
          StateCapacityExceeded: A row would grow past ``state.max_length``.
          ExchangeUnsupported: The sequence is split over ranks.
        """
        _check_ids(ids, 2)
        if not 1 <= count <= len(self.blocks) or ids.shape[1] == 0:
            accepted = f"accepted are 1 to {len(self.blocks)} blocks, 1 or more tokens"
            raise InputMismatch(f"{count} blocks and {ids.shape[1]} tokens; {accepted}")
        if self.exchange.size > 1:
            raise ExchangeUnsupported(
                f"single blocks cannot be read on a sequence split over {self.exchange.size} ranks"
            )
        starts = None if state is None else state.require_room(ids.shape[0], ids.shape[1], starts=starts)
        x = self.embedding_layer(ids)
        for index, block in zip(range(count), self._blocks(), strict=False):
            x = block(x, None if state is None else state.layers[index], starts)
        if state is not None:
            state.advance(ids.shape[1])
        return x

    def unembed(self, hidden: Float[Tensor, "... channel"]) -> Float[Tensor, "... vocabulary"]:
        """Returns the logits of hidden vectors that ``encode`` made, in the type of the weights."""
        return functional.linear(hidden, self.embedding_layer.weight)

    def unembed_wide(self, hidden: Float[Tensor, "... channel"]) -> Float[Tensor, "... vocabulary"]:
        """Does the same with sums that stay in float32 (float64 for float64): a score adds thousands of them.

        In bfloat16 a logit has 8 significant bits: likely tokens tie, and most of the error of a log-probability comes
        from it.
        """
        device = hidden.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.unembed_wide(hidden)
        if hidden.dtype in _UNROUNDED:
            return self.unembed(hidden)
        weight = self.embedding_layer.weight
        if hidden.is_cuda:
            rows = torch.mm(hidden.reshape(-1, hidden.shape[-1]), weight.t(), out_dtype=torch.float32)
            return rows.view(*hidden.shape[:-1], rows.shape[-1])
        return functional.linear(hidden.float(), weight.float())

    def step(
        self, ids: Int[Tensor, " batch"], state: StripedHyena2State, *, active: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch vocabulary"]:
        """Reads one more token per row and returns the logits of the next, in float32 at least; see ``unembed_wide``.

        Every row is computed from itself alone: at a given batch size its result does not depend on the other rows.

        Args:
          ids: The tokens, one per row, each at its row's own position.
          state: Updated in place.
          active: Rows where it is false keep their state; their logits mean nothing.

        Raises:
          InputMismatch: ``ids`` does not fit ``state``.
          StateCapacityExceeded: An active row has no room left. On a CUDA device nothing waits for the answer: there
            the caller counts, or asks ``state.require_room``; a token without room is not stored.
        """
        _check_ids(ids, 1)
        if not ids.is_cuda:
            state.require_room(ids.shape[0], 1, active)
        x = self.embedding_layer(ids)
        blocks = list(self._blocks())
        following = [next_weight(block.inward, x) for block in blocks[1:]]
        following.append(self.embedding_layer.weight)
        for block, layer, upcoming in zip(blocks, state.layers, following, strict=True):
            x = block.step(x, layer, active=active, upcoming=upcoming)
        state.advance(1, active)
        norm = step_norm(self.norm)
        return linear_step(x, self.embedding_layer.weight, norm=norm, output_dtype=_dtype_of_logits(x))

    def prepare_step(
        self, state: StripedHyena2State, *, active: Bool[Tensor, " batch"] | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Returns ``step`` over this state as a function of the tokens, with what does not change looked up once.

        It gives what ``step`` gives: logits ``[batch, vocabulary]`` for ids ``[batch]``. The state and ``active`` are
        read and updated where they lie; weights may not change meanwhile, for some of what is looked up is computed
        from them.
        ``step`` itself is called where gradients are recorded, under ``torch.autocast``, and where another function
        has taken its place.

        Raises:
          InputMismatch: A layer does not fit the state. The function: the tokens do not fit it.
          StateCapacityExceeded: The function: see ``step``.
        """
        if getattr(self.step, "__func__", None) is not StripedHyena2.step:
            return partial(self.step, state=state, active=active)
        x = self.embedding_layer.weight.new_zeros(state.batch_size, self.hidden_size)
        layers = zip(self._blocks(), state.layers, strict=True)
        blocks = [block.prepare_step(x, layer, active=active) for block, layer in layers]
        unembed = self._prepared_unembedding(x)

        def step(ids: Tensor) -> Tensor:
            if torch.is_grad_enabled() or torch.is_autocast_enabled(ids.device.type):
                return self.step(ids, state, active=active)
            _check_ids(ids, 1)
            if not ids.is_cuda:
                state.require_room(ids.shape[0], 1, active)
            x = self.embedding_layer(ids)
            for block in blocks:
                x = block(x)
            state.advance(1, active)
            return unembed(x)

        return step

    def _prepared_unembedding(self, x: Float[Tensor, "batch channel"]) -> Callable[[Tensor], Tensor]:
        """Returns norm and unembedding of a step as a function of the stream."""
        weight, norm = self.embedding_layer.weight, step_norm(self.norm)
        if x.is_cuda or x.dtype in _UNROUNDED:
            return prepare("linear_step", x, weight, norm=norm, output_dtype=_dtype_of_logits(x))
        wide = weight.float()  # which would take longer than the product, step by step
        return lambda x: functional.linear(self.norm(x).float(), wide)

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        page_count: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StripedHyena2State:
        """Returns the state of ``batch_size`` sequences of which nothing was seen.

        Args:
          batch_size: Number of rows.
          max_length: Tokens per row to make room for in attention layers.
          page_count: Where given, that many pages of 256 tokens for all rows instead, to be handed out by
            ``StripedHyena2State.hold_pages``.
          device: Where; default is that of the weights.
          dtype: Type of rings, keys and values; default is that of the weights. Modal states are float32 (float64 for
            float64).
        """
        device, dtype = device or self.norm.scale.device, dtype or self.norm.scale.dtype
        layers: list[MixerState] = []
        for block in self._blocks():
            paged = {"page_count": page_count} if isinstance(block, AttentionBlock) else {}
            layers.append(
                block.mixer.init_state(batch_size, max_length=max_length, device=device, dtype=dtype, **paged)
            )
        return StripedHyena2State(position=shared_position(layers), layers=layers, max_length=max_length)

    def _blocks(self) -> Iterator[HyenaBlock | AttentionBlock]:
        """Iterates over the blocks with their type."""
        for block in self.blocks:
            assert isinstance(block, HyenaBlock | AttentionBlock)
            yield block

    def _fold(self, ids: Int[Tensor, "batch length"]) -> Int[Tensor, "folded run"]:
        """Moves this rank's runs into the batch axis, run-major."""
        segments = self.exchange.segments
        if segments == 1:
            return ids
        if ids.shape[1] % segments:
            raise InputMismatch(f"{ids.shape[1]} tokens cannot be cut into the {segments} equal runs of this rank")
        return ids.unflatten(1, (segments, -1)).transpose(0, 1).flatten(0, 1)

    def _unfold(self, x: Float[Tensor, "folded run channel"]) -> Float[Tensor, "batch length channel"]:
        """Undoes ``_fold``."""
        segments = self.exchange.segments
        return x if segments == 1 else x.unflatten(0, (segments, -1)).transpose(0, 1).flatten(1, 2)


def _check_ids(ids: Tensor, axes: int) -> None:
    """Refuses what are no tokens."""
    if type(ids) is not Tensor and not isinstance(ids, Tensor):
        raise InputMismatch(f"ids are a {type(ids).__name__} and no tensor; accepted is a tensor of integers")
    if ids.is_nested or ids.layout is not torch.strided:
        raise InputMismatch("ids are a nested or sparse tensor; accepted is a dense one of integers")
    if ids.dim() != axes or ids.dtype not in _INTEGERS:
        accepted = "[batch, length]" if axes == 2 else "[batch]"
        raise InputMismatch(f"ids are {ids.dtype} of shape {tuple(ids.shape)}; accepted are integers {accepted}")


def _check_sizes(pattern: str, inner_size: int, vocab_size: int, filter_parameters: str) -> None:
    """Refuses what the layers themselves would not notice."""
    unknown = sorted(set(pattern) - set(_LAYER_LETTERS))
    if unknown or not pattern:
        raise ConfigurationError(f"pattern is {pattern!r}; it takes one or more of the letters S, D, H and *")
    if inner_size < 1 or vocab_size < 1:
        raise ConfigurationError(f"inner_size {inner_size} and vocab_size {vocab_size} must be positive")
    if filter_parameters not in ("poles", "p_gamma"):
        raise ConfigurationError(f"filter_parameters is {filter_parameters!r}; accepted are 'poles' and 'p_gamma'")
