"""The kernels of gated_conv: both filters and both gates in one pass over z."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.causal_conv.triton.streams import project_at, toeplitz_at


@triton.jit
def gated_at(
    z, z_channel, history, taps, mixer_history, t, length, mixer_past, first,
    LAG: tl.constexpr, PROJECTION: tl.constexpr, HISTORY: tl.constexpr, PREGATE: tl.constexpr,
):  # fmt: skip
    """Returns g at times t - LAG in float32: projected k times projected v, or the history before time 0.

    z, history and taps point at row 3c of the channel; z_channel, which separates rows of z, is 64 bits wide.
    """
    past: tl.constexpr = PROJECTION - 1
    g = project_at(
        z + 2 * z_channel, history + 2 * past, taps + 2 * PROJECTION, t, length, first, LAG, PROJECTION, HISTORY
    )
    if PREGATE:
        g *= project_at(z + z_channel, history + past, taps + PROJECTION, t, length, first, LAG, PROJECTION, HISTORY)
    if HISTORY:  # noqa: SIM102 (decided when compiling; the inner one when running)
        if first:
            s = t - LAG
            earlier = tl.load(mixer_history + (s + mixer_past), mask=(s < 0) & (s >= -mixer_past), other=0.0)
            g = tl.where(s < 0, earlier.to(tl.float32), g)
    return g


@triton.jit
def gated_conv_short_kernel(
    z, projection_taps, mixer_taps, skip, history, mixer_history, y, tail, length, channels, channels_per_row,
    z_batch, z_channel, tail_size,
    PROJECTION: tl.constexpr, MIXER: tl.constexpr, TILE: tl.constexpr, HISTORY: tl.constexpr, SKIP: tl.constexpr,
    PREGATE: tl.constexpr, POSTGATE: tl.constexpr,
):  # fmt: skip
    """One program: one channel, TILE samples; g is recomputed for each tap from loads that hit the L1 cache."""
    channel, batch, tile = tl.program_id(1), tl.program_id(2), tl.program_id(0)
    row = batch.to(tl.int64) * channels + channel
    z_channel = tl.cast(z_channel, tl.int64)
    stream = z + batch.to(tl.int64) * z_batch + 3 * channel * z_channel
    before = history + 3 * row * (PROJECTION - 1)
    gated_before = mixer_history + row * (MIXER - 1)
    weights = projection_taps + 3 * channel * PROJECTION
    mixer = mixer_taps + (channel // channels_per_row) * MIXER
    t = tile * TILE + tl.arange(0, TILE)
    first = tile == 0
    total = tl.zeros((TILE,), dtype=tl.float32)
    for k in tl.static_range(MIXER):
        g = gated_at(
            stream, z_channel, before, weights, gated_before, t, length, MIXER - 1, first,
            k, PROJECTION, HISTORY, PREGATE,
        )  # fmt: skip
        total += tl.load(mixer + k).to(tl.float32) * g
        if k == 0:
            last = (t >= length - tail_size) & (t < length)
            tl.store(tail + row * tail_size + (t - (length - tail_size)), g.to(tail.dtype.element_ty), mask=last)
            if SKIP:
                total += tl.load(skip + channel).to(tl.float32) * g
    if POSTGATE:
        total *= project_at(stream, before, weights, t, length, first, 0, PROJECTION, HISTORY)
    tl.store(y + row * length + t, total.to(y.dtype.element_ty), mask=t < length)


@triton.jit(do_not_specialize=["mixer_size"])
def gated_conv_toeplitz_kernel(
    z, projection_taps, mixer_taps, skip, history, mixer_history, y, tail, length, channels, channels_per_row,
    z_batch, z_channel, tail_size,
    mixer_size, DIAGONALS: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr, PROJECTION: tl.constexpr,
    HISTORY: tl.constexpr, SKIP: tl.constexpr, PREGATE: tl.constexpr, POSTGATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one channel, COUNT blocks of BLOCK gated samples as rows times one Toeplitz block a diagonal.

    Filters with equally many diagonals share one compiled kernel.
    """
    channel, batch, tile = tl.program_id(1), tl.program_id(2), tl.program_id(0)
    row = batch.to(tl.int64) * channels + channel
    z_channel = tl.cast(z_channel, tl.int64)
    stream = z + batch.to(tl.int64) * z_batch + 3 * channel * z_channel
    before = history + 3 * row * (PROJECTION - 1)
    gated_before = mixer_history + row * (mixer_size - 1)
    weights = projection_taps + 3 * channel * PROJECTION
    mixer = mixer_taps + (channel // channels_per_row) * mixer_size
    t = tile * COUNT * BLOCK + tl.arange(0, COUNT)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    first = tile == 0
    current = gated_at(
        stream, z_channel, before, weights, gated_before, t, length, mixer_size - 1, first,
        0, PROJECTION, HISTORY, PREGATE,
    )  # fmt: skip
    last = (t >= length - tail_size) & (t < length)
    tl.store(tail + row * tail_size + (t - (length - tail_size)), current.to(tail.dtype.element_ty), mask=last)
    total = tl.dot(current, toeplitz_at(mixer, 0, mixer_size, BLOCK), input_precision=PRECISION)
    for d in tl.static_range(1, DIAGONALS):
        g = gated_at(
            stream, z_channel, before, weights, gated_before, t, length, mixer_size - 1, first,
            d * BLOCK, PROJECTION, HISTORY, PREGATE,
        )  # fmt: skip
        total = tl.dot(g, toeplitz_at(mixer, d, mixer_size, BLOCK), total, input_precision=PRECISION)
    if SKIP:
        total += tl.load(skip + channel).to(tl.float32) * current
    if POSTGATE:
        total *= project_at(stream, before, weights, t, length, first, 0, PROJECTION, HISTORY)
    tl.store(y + row * length + t, total.to(y.dtype.element_ty), mask=t < length)
