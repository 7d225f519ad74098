"""Causal depthwise convolution of a sequence: the public functions."""

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._any_length import of_any_length
from subquad.ops._autocast import without_autocast
from subquad.ops._blocks import block_sizes, channels_at_once, fewest_channels, lengthwise
from subquad.ops._channels import Part, by_channels, check_chunk
from subquad.ops._elementwise import activated
from subquad.ops.axes import Activation, Boundaries, History, Layout, PerChannel, Sequence, Taps
from subquad.ops.causal_conv.causal_filter import filter_stream, next_history
from subquad.ops.causal_conv.packed import check_cu_seqlens, spread_sequences

_TAPS_IN_BLOCKS = 64  # up to which a stream of 16 bits is widened in blocks; longer filters make blocks of their own
_FEWEST_BLOCKS = 3  # a stream of fewer is left whole


@of_any_length
def causal_conv(
    x: Sequence,
    taps: Taps,
    *,
    bias: PerChannel | None = None,
    skip: PerChannel | None = None,
    activation: Activation | None = None,
    initial_state: History | None = None,
    cu_seqlens: Boundaries | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Sequence:
    """Convolves each channel of a sequence with its own causal filter.

    ``y[b, c, t] = activation(sum(taps[g(c), k] * x[b, c, t - k] for k in range(tap)) + skip[c] * x[b, c, t]
    + bias[c])``

    Args:
      x: the sequence; float32, float64, bfloat16 or float16, any strides.
      taps: ``[group, tap]``, tap 0 multiplies the current sample; ``group`` divides the channels and channel c takes
        row ``g(c) = c // (channels / group)``. Any number of taps, also more than the sequence is long.
      bias: added to every sample of a channel.
      skip: factor of the unfiltered input.
      activation: ``"silu"``, ``"gelu"`` (exact) or None, applied last.
      initial_state: the ``tap - 1`` samples before the first, oldest first; zeros when absent.
      cu_seqlens: ``[sequences + 1]`` offsets of sequences packed in one row of x (batch 1); each starts anew, from its
        own row of ``initial_state`` ``[sequences, channel, tap - 1]`` if given.
      chunk_size: compute so many channels at a time and recompute them in backward, so that peak memory falls; the
        result has the same bits. On a CPU 2 at least, and of transforms that its threads share more than half as many
        as threads.
      layout: ``"BHL"`` ``[batch, channel, length]`` or ``"BLH"`` ``[batch, length, channel]``.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      The filtered sequence in the dtype and layout of x, summed in float32 (float64 for float64). It may be a view of
      a padded one, of up to twice its size for long filters; ``.clone()`` what is kept.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.

    Example:
      >>> causal_conv(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[1.0, 1.0]])).flatten().tolist()
      [1.0, 3.0, 5.0]
    """
    y, _ = _run(x, taps, bias, skip, activation, initial_state, cu_seqlens, chunk_size, layout, backend)
    return _checks.as_layout(y, layout)


@of_any_length
def causal_conv_with_state(
    x: Sequence,
    taps: Taps,
    *,
    bias: PerChannel | None = None,
    skip: PerChannel | None = None,
    activation: Activation | None = None,
    initial_state: History | None = None,
    cu_seqlens: Boundaries | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> tuple[Sequence, History]:
    """Does causal_conv and also returns the state from which a later call continues.

    Returns:
      The filtered sequence, and the last ``tap - 1`` inputs ``[batch, channel, tap - 1]`` in the dtype of x, oldest
      first, with zeros (or the end of ``initial_state``) in front where the sequence is shorter. One row a sequence
      with ``cu_seqlens``.
    """
    y, state = _run(x, taps, bias, skip, activation, initial_state, cu_seqlens, chunk_size, layout, backend)
    return _checks.as_layout(y, layout), _checks.own_copy(state)


def _run(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: Activation | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk_size: int | None,
    layout: Layout,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Checks a call and runs it; returns y channel-first and the state, which may be a view of a larger tensor."""
    stream = _checks.channel_first(x, layout)
    batch, channels, _ = stream.shape
    _checks.taps("taps", taps, x, channels)
    _checks.shaped("bias", bias, (channels,), x)
    _checks.shaped("skip", skip, (channels,), x)
    _checks.activation(activation)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, stream)
        batch = cu_seqlens.shape[0] - 1
    _checks.shaped("initial_state", initial_state, (batch, channels, taps.shape[1] - 1), x)
    call = describe(
        stream, taps, bias=bias, skip=skip, activation=activation, initial_state=initial_state, cu_seqlens=cu_seqlens
    )
    check_chunk(chunk_size)
    chosen, _ = dispatch.choose(call, backend)

    def run(
        x: Tensor, taps: Tensor, bias: Tensor | None, skip: Tensor | None, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        options = {"bias": bias, "skip": skip, "activation": activation, "initial_state": before}
        if chosen is None:
            return compute_in_torch(x, taps, **options, cu_seqlens=cu_seqlens)
        return chosen.run(x, taps, **options)

    parts = (Part(stream, 1), Part(taps, 0), Part(bias, 0), Part(skip, 0), Part(initial_state, 1))
    longest = stream.shape[2] + batch * taps.shape[1]
    fewest = 1 if chunk_size is None else fewest_channels(stream, longest)
    y, state = by_channels(run, chunk_size, channels, parts, fewest)
    return y, state


def describe(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    activation: Activation | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    batch, channels, length = _checks.channel_first(x, layout).shape
    named = {
        "bias": bias,
        "skip": skip,
        "activation": activation,
        "initial_state": initial_state,
        "cu_seqlens": cu_seqlens,
    }
    return dispatch.Call(
        operator="causal_conv",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=batch,
        channels=channels,
        length=length,
        taps=taps.shape[1],
        options=frozenset(name for name, value in named.items() if value is not None),
        gradient=dispatch.gradient_wanted(x, taps, bias, skip, initial_state),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    stream: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: Activation | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes the checked, channel-first call in plain torch; returns y and the new history (a view)."""
    stream = lengthwise(stream)
    past = taps.shape[1] - 1
    narrow = stream.dtype != _checks.accumulation_dtype(stream) and cu_seqlens is None and past < _TAPS_IN_BLOCKS
    sizes = []
    if narrow and dispatch.runs_plainly(stream, taps, bias, skip, initial_state):
        width = channels_at_once(stream)
        sizes = block_sizes(stream.shape[1], width, 2) if _FEWEST_BLOCKS * width <= stream.shape[1] else []
    if len(sizes) > 1:
        options = {"bias": bias, "skip": skip, "activation": activation, "initial_state": initial_state}
        return _in_blocks(stream, taps, tuple(sizes), **options), next_history(stream, past, initial_state)
    samples = stream.to(_checks.accumulation_dtype(stream))
    if cu_seqlens is None:
        y, state = filter_stream(samples, taps, initial_state), next_history(stream, past, initial_state)
    else:
        row, outputs, last = spread_sequences(samples, cu_seqlens, past, initial_state)
        y = filter_stream(row[..., past:], taps, row[..., :past])[..., outputs]
        state = row[0][:, last].transpose(0, 1).to(stream.dtype)
    wide = y.dtype
    if skip is not None:
        y = y + skip.to(wide)[:, None] * samples
    if bias is not None:
        y = y + bias.to(wide)[:, None]
    if activation is not None:
        y = activated(y, activation)
    return y.to(stream.dtype), state


def _in_blocks(
    stream: Tensor,
    taps: Tensor,
    sizes: tuple[int, ...],
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: Activation | None,
    initial_state: Tensor | None,
) -> Tensor:
    """Computes so many channels at a time, of which nothing looks on."""
    y, count = torch.empty(stream.shape, dtype=stream.dtype, device=stream.device), len(sizes)
    rows = _checks.expand_groups(taps, stream.shape[1])
    added, scaled = ([None] * count if value is None else value.split(sizes) for value in (bias, skip))
    before = [None] * count if initial_state is None else initial_state.split(sizes, 1)
    for result, x, w, b, s, state in zip(
        y.split(sizes, 1), stream.split(sizes, 1), rows.split(sizes), added, scaled, before, strict=True
    ):
        part, _ = compute_in_torch(x, w, bias=b, skip=s, activation=activation, initial_state=state)
        result.copy_(part)
    return y
