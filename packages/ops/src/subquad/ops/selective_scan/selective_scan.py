"""The selective scan of Mamba 1 and 2: the public functions."""

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._any_length import of_any_length
from subquad.ops._autocast import without_autocast
from subquad.ops._channels import check_chunk, recomputed, wide_parameters
from subquad.ops.axes import Layout, ModalState, Modes, PerChannel, Sequence
from subquad.ops.errors import ShapeMismatch
from subquad.ops.selective_scan.scan import scan_selective

FAR_WEIGHTS = "weights of a sample that lie 2**31 numbers or more apart"
Weights = Float[Tensor, "batch _ _ _"]  # [batch, group, state, length], with layout="BLH" [batch, length, group, state]


@of_any_length
def selective_scan(
    x: Sequence,
    step_size: Sequence,
    decay: Modes,
    input_weights: Weights,
    output_weights: Weights,
    *,
    skip: PerChannel | None = None,
    initial_state: ModalState | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Sequence:
    """Runs a diagonal state-space recurrence whose step size and weights depend on time.

    ``s[t] = exp(step_size[t] * decay) * s[t - 1] + step_size[t] * input_weights[t] * x[t]``;
    ``y[t] = sum(output_weights[t] * s[t]) + skip * x[t]``

    Args:
      x: ``[batch, channel, length]``; float32, float64, bfloat16 or float16.
      step_size: ``[batch, channel, length]``, positive; already biased and through its softplus.
      decay: ``[channel, state]``, negative (Mamba's A). For Mamba 2 a head's one value is repeated over its channels.
      input_weights: ``[batch, group, state, length]`` (Mamba's B); group divides the channels.
      output_weights: ``[batch, group, state, length]`` (Mamba's C).
      skip: factor ``[channel]`` of the input (Mamba's D).
      initial_state: s before the first sample, ``[batch, channel, state]``; zeros when absent.
      chunk_size: process so many samples at a time and recompute them in backward, so that peak memory no longer
        grows with ``length * state``.
      layout: ``"BHL"`` as above, or ``"BLH"``: streams ``[batch, length, channel]``, weights ``[batch, length, group,
        state]``.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists. On CUDA ``"auto"`` takes an
        installed ``mamba_ssm``.

    Returns:
      The filtered stream in the dtype and layout of x; the recurrence runs in float32 (float64 for float64).

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    y, _ = _scan(
        x,
        step_size,
        decay,
        input_weights,
        output_weights,
        skip=skip,
        initial_state=initial_state,
        chunk_size=chunk_size,
        layout=layout,
        backend=backend,
        keeps_state=False,
    )
    return y


@of_any_length
def selective_scan_with_state(
    x: Sequence,
    step_size: Sequence,
    decay: Modes,
    input_weights: Weights,
    output_weights: Weights,
    *,
    skip: PerChannel | None = None,
    initial_state: ModalState | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> tuple[Sequence, ModalState]:
    """Does selective_scan and also returns s after the last sample, ``[batch, channel, state]``, float32 or float64."""
    return _scan(
        x,
        step_size,
        decay,
        input_weights,
        output_weights,
        skip=skip,
        initial_state=initial_state,
        chunk_size=chunk_size,
        layout=layout,
        backend=backend,
        keeps_state=True,
    )


def _scan(
    x: Tensor,
    step_size: Tensor,
    decay: Tensor,
    input_weights: Tensor,
    output_weights: Tensor,
    *,
    skip: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int | None,
    layout: Layout,
    backend: str,
    keeps_state: bool,
) -> tuple[Tensor, Tensor]:
    x, step_size, input_weights, output_weights = _channel_first(x, step_size, input_weights, output_weights, layout)
    batch, channels, length = x.shape
    _checks.shaped("step_size", step_size, (batch, channels, length), x)
    _checks.shaped("skip", skip, (channels,), x)
    _checks.floating("decay", decay)
    if decay.dim() != 2:
        raise ShapeMismatch(f"decay has {decay.dim()} axes {tuple(decay.shape)}; accepted: 2 (channel, state)")
    groups, states = input_weights.shape[1], decay.shape[1]
    if groups < 1 or channels % groups:
        raise ShapeMismatch(f"input_weights has {groups} groups, x has {channels} channels; groups must divide them")
    _checks.shaped("decay", decay, (channels, states), x)
    _checks.shaped("input_weights", input_weights, (batch, groups, states, length), x)
    _checks.shaped("output_weights", output_weights, (batch, groups, states, length), x)
    _checks.shaped("initial_state", initial_state, (batch, channels, states), x)
    check_chunk(chunk_size, "samples")
    streams = (x, step_size, input_weights, output_weights)
    call = describe(
        *(x, step_size, decay, *streams[2:]),
        skip=skip,
        initial_state=initial_state,
        chunk_size=chunk_size,
        keeps_state=keeps_state,
    )
    chosen, _ = dispatch.choose(call, backend)
    run = compute_in_torch if chosen is None else chosen.run
    if chunk_size is None or chunk_size >= length:
        y, state = run(x, step_size, decay, *streams[2:], skip=skip, initial_state=initial_state)
        return _checks.as_layout(y, layout), state
    decay, skip = wide_parameters(x, decay, skip)
    state, pieces = initial_state, []
    for piece in zip(*(stream.split(chunk_size, dim=-1) for stream in streams), strict=True):
        y, state = recomputed(run, *piece[:2], decay, *piece[2:], skip=skip, initial_state=state)
        pieces.append(y)
    assert state is not None
    return _checks.as_layout(torch.cat(pieces, dim=-1), layout), state


def _channel_first(
    x: Tensor, step_size: Tensor, input_weights: Tensor, output_weights: Tensor, layout: Layout
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Checks numbers of axes and returns the streams ``[batch, channel, length]``, the weights with the length last."""
    streams = _checks.channel_first(x, layout), _checks.channel_first(step_size, layout, "step_size")
    for name, weights in (("input_weights", input_weights), ("output_weights", output_weights)):
        _checks.floating(name, weights)
        if weights.dim() != 4:
            shape = tuple(weights.shape)
            raise ShapeMismatch(f"{name} has {weights.dim()} axes {shape}; accepted: 4 (batch, group, state, length)")
    if layout == "BHL":
        return *streams, input_weights, output_weights
    return *streams, input_weights.permute(0, 2, 3, 1), output_weights.permute(0, 2, 3, 1)


def describe(
    x: Tensor,
    step_size: Tensor,
    decay: Tensor,
    input_weights: Tensor,
    output_weights: Tensor,
    *,
    skip: Tensor | None = None,
    initial_state: Tensor | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    keeps_state: bool = False,
) -> dispatch.Call:
    """Describes a call to the dispatcher; ``keeps_state`` that of selective_scan_with_state."""
    batch, channels, length = _checks.channel_first(x, layout).shape
    in_chunks = chunk_size is not None and chunk_size < length
    named = {
        "skip": skip is not None,
        "initial_state": in_chunks or initial_state is not None,
        "final_state": in_chunks or keeps_state,
        FAR_WEIGHTS: any(_reach(weights) >= 2**31 for weights in (input_weights, output_weights)),
    }
    return dispatch.Call(
        operator="selective_scan",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=batch,
        channels=channels,
        length=length,
        taps=decay.shape[1],
        options=frozenset(name for name, used in named.items() if used),
        gradient=dispatch.gradient_wanted(x, step_size, decay, input_weights, output_weights, skip, initial_state),
        capturing=dispatch.capturing(x),
    )


def _reach(weights: Tensor) -> int:
    """Returns how far the weights of one sample reach, as they lie or as a copy of them would."""
    apart = sum((size - 1) * stride for size, stride in zip(weights.shape[1:], weights.stride()[1:], strict=True))
    return max(apart, weights.shape[1:].numel())


@without_autocast
def compute_in_torch(
    x: Tensor,
    step_size: Tensor,
    decay: Tensor,
    input_weights: Tensor,
    output_weights: Tensor,
    *,
    skip: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Computes the checked call in plain torch; returns y and the new state."""
    wide = _checks.accumulation_dtype(x)
    repeat = x.shape[1] // input_weights.shape[1]
    delta, samples = step_size.to(wide).permute(2, 0, 1), x.to(wide).permute(2, 0, 1)
    into = input_weights.to(wide).permute(3, 0, 1, 2).repeat_interleave(repeat, dim=2)
    out = output_weights.to(wide).permute(3, 0, 1, 2).repeat_interleave(repeat, dim=2)
    initial = x.new_zeros(*x.shape[:2], decay.shape[1]) if initial_state is None else initial_state
    initial = initial.to(wide)
    if x.numel() == 0:  # empty, yet tied to every input
        tied = decay.sum() + into.sum() + out.sum() + initial.sum() + (0 if skip is None else skip.sum())
        return (samples * delta * tied).permute(1, 2, 0).to(x.dtype), initial.clone()
    states, last = scan_selective(delta[..., None] * decay.to(wide), (delta * samples)[..., None] * into, initial)
    y = (out * states).sum(dim=-1)
    if skip is not None:
        y = y + skip.to(wide) * samples
    return y.permute(1, 2, 0).to(x.dtype), last.clone()
