"""Projection FIR, pre-gate, mixer FIR, post-gate: the public functions."""

from typing import Any, NamedTuple

from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._any_length import of_any_length
from subquad.ops._autocast import without_autocast
from subquad.ops._blocks import lengthwise
from subquad.ops._channels import Part, by_channels, check_chunk
from subquad.ops._known_calls import implementation_for
from subquad.ops.axes import Layout, PerChannel, ProjectionTaps, Sequence, Taps
from subquad.ops.causal_conv.causal_filter import filter_stream, next_history
from subquad.ops.gated_conv.projection import check_projection, filtered_and_gated, project_and_gate


class GatedConvState(NamedTuple):
    """What a gated convolution must remember between two calls."""

    projection: Tensor  # the last inputs z, [batch, 3 * channel, projection tap - 1], oldest first
    mixer: Tensor  # the last gated samples, [batch, channel, mixer tap - 1], oldest first


@of_any_length
def gated_conv(
    z: Sequence,
    projection_taps: ProjectionTaps,
    mixer_taps: Taps,
    *,
    skip: PerChannel | None = None,
    pregate: bool = True,
    postgate: bool = True,
    initial_state: GatedConvState | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Sequence:
    """Projects, gates, convolves and gates again.

    ``p = causal_conv(z, projection_taps)``; ``g[c] = p[3c + 1] * p[3c + 2]``;
    ``y[c] = p[3c] * (causal_conv(g, mixer_taps)[c] + skip[c] * g[c])``

    Args:
      z: ``[batch, 3 * channel, length]``: row 3c is the post-gate of channel c, 3c + 1 its pre-gate, 3c + 2 its value.
      projection_taps: ``[3 * channel, tap]`` or fewer rows that divide them; tap 0 multiplies the current sample.
      mixer_taps: ``[group, tap]``, channel c takes row ``c // (channels / group)``.
      skip: factor ``[channel]`` of the gated stream, added before the post-gate.
      pregate: False leaves ``g[c] = p[3c + 2]``.
      postgate: False leaves out the factor ``p[3c]``.
      initial_state: what an earlier call's ``_with_state`` form returned.
      chunk_size: compute so many channels at a time and recompute them in backward, so that peak memory falls.
      layout: of z and of the result; ``"BHL"`` or ``"BLH"``.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[batch, channel, length]`` in the dtype of z; everything in between is held in float32 (float64 for float64).

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with z; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    y, *_ = _run(
        z,
        projection_taps,
        mixer_taps,
        skip,
        pregate,
        postgate,
        initial_state,
        chunk_size,
        layout,
        backend,
        keeps_state=False,
    )
    return _checks.as_layout(y, layout)


@of_any_length
def gated_conv_with_state(
    z: Sequence,
    projection_taps: ProjectionTaps,
    mixer_taps: Taps,
    *,
    skip: PerChannel | None = None,
    pregate: bool = True,
    postgate: bool = True,
    initial_state: GatedConvState | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> tuple[Sequence, GatedConvState]:
    """Does gated_conv and also returns the state from which a later call continues, both parts in the dtype of z."""
    y, first, second = _run(
        z,
        projection_taps,
        mixer_taps,
        skip,
        pregate,
        postgate,
        initial_state,
        chunk_size,
        layout,
        backend,
        keeps_state=True,
    )
    return _checks.as_layout(y, layout), GatedConvState(_checks.own_copy(first), _checks.own_copy(second))


def _run(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
    chunk_size: int | None,
    layout: Layout,
    backend: str,
    *,
    keeps_state: bool,
) -> tuple[Tensor, ...]:
    """Checks a call and runs it; returns y channel-first and, if it is kept, the state (views of larger tensors)."""
    before: tuple[Any, ...] = () if initial_state is None else _checks.pair("initial_state", initial_state)
    tensors = (z, projection_taps, mixer_taps, skip, *before)
    chosen = implementation_for(_decide, tensors, pregate, postgate, layout, backend)
    check_chunk(chunk_size)
    stream = z if layout == "BHL" else z.transpose(1, 2)

    def run(
        z: Tensor, projection_taps: Tensor, mixer_taps: Tensor, skip: Tensor | None, *before: Tensor
    ) -> tuple[Tensor, ...]:
        state = GatedConvState(*before) if before else None
        options = {"skip": skip, "pregate": pregate, "postgate": postgate, "initial_state": state}
        if chosen is not None and chosen.output is not None and not keeps_state:
            return (chosen.output(z, projection_taps, mixer_taps, **options),)
        y, state = (compute_in_torch if chosen is None else chosen.run)(z, projection_taps, mixer_taps, **options)
        return y, *state

    if chunk_size is None:
        return run(stream, projection_taps, mixer_taps, skip, *before)
    parts = (Part(stream, 1, 3), Part(projection_taps, 0, 3), Part(mixer_taps, 0), Part(skip, 0))
    pasts = (Part(past, 1, rows) for past, rows in zip(before, (3, 1), strict=False))
    return by_channels(run, chunk_size, stream.shape[1] // 3, (*parts, *pasts))


def _decide(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    skip: Tensor | None,
    *rest: Any,
) -> dispatch.Implementation | None:
    """Checks a call and chooses its implementation; the rest is the state where there is one, and options."""
    *before, pregate, postgate, layout, backend = rest
    projection, mixer = before or (None, None)
    stream = _checks.channel_first(z, layout, "z")
    channels = check_projection(stream, projection_taps, projection)
    _checks.taps("mixer_taps", mixer_taps, z, channels, "the gated stream")
    _checks.shaped("skip", skip, (channels,), z, "z")
    _checks.shaped("initial_state.mixer", mixer, (z.shape[0], channels, mixer_taps.shape[1] - 1), z, "z")
    call = describe(
        stream,
        projection_taps,
        mixer_taps,
        skip=skip,
        pregate=pregate,
        postgate=postgate,
        initial_state=GatedConvState(*before) if before else None,
    )
    return dispatch.choose(call, backend)[0]


def describe(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    *,
    skip: Tensor | None = None,
    pregate: bool = True,
    postgate: bool = True,
    initial_state: GatedConvState | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    batch, rows, length = _checks.channel_first(z, layout, "z").shape
    named = {"skip": skip is not None, "initial_state": initial_state is not None}
    named |= {"no pregate": not pregate, "no postgate": not postgate}
    return dispatch.Call(
        operator="gated_conv",
        dtype=z.dtype,
        device=z.device.type,
        index=z.get_device(),
        batch=batch,
        channels=rows // 3,
        length=length,
        taps=mixer_taps.shape[1],
        projection_taps=projection_taps.shape[1],
        options=frozenset(name for name, used in named.items() if used),
        gradient=dispatch.gradient_wanted(z, projection_taps, mixer_taps, skip, *(initial_state or ())),
        capturing=dispatch.capturing(z),
    )


@without_autocast
def compute_in_torch(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
) -> tuple[Tensor, GatedConvState]:
    """Computes the checked call in plain torch; returns y and the new state."""
    projection, mixer = initial_state if initial_state is not None else (None, None)
    q, g, projection = project_and_gate(lengthwise(z), projection_taps, pregate, projection)
    y, last = filter_stream(g, mixer_taps, mixer), next_history(g, mixer_taps.shape[1] - 1, mixer)
    in_place = dispatch.runs_plainly(z, projection_taps, mixer_taps, skip, *(initial_state or ()))
    y = filtered_and_gated(y, q, g, skip, postgate, in_place=in_place)
    return y.to(z.dtype), GatedConvState(projection, last.to(z.dtype))
