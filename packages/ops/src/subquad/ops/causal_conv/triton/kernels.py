"""The kernels of causal_conv: a short filter in registers, a medium one as Toeplitz products on the tensor cores."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.causal_conv.triton.streams import project_at, sample_at, toeplitz_at


@triton.jit
def finish(total, current, bias, skip, channel, BIAS: tl.constexpr, SKIP: tl.constexpr, ACTIVATION: tl.constexpr):
    """Adds skip and bias and applies the activation, in float32."""
    if SKIP:
        total += tl.load(skip + channel).to(tl.float32) * current
    if BIAS:
        total += tl.load(bias + channel).to(tl.float32)
    if ACTIVATION == "silu":
        total = total * tl.sigmoid(total)
    elif ACTIVATION == "gelu":
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    return total


@triton.jit
def causal_conv_short_kernel(
    x, taps, bias, skip, history, y, length, channels, channels_per_row, x_batch, x_channel,
    TAPS: tl.constexpr, TILE: tl.constexpr, HISTORY: tl.constexpr, BIAS: tl.constexpr, SKIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """One program: one channel, TILE samples, one multiplication a tap; the shifted loads hit the L1 cache."""
    channel, batch, tile = tl.program_id(1), tl.program_id(2), tl.program_id(0)
    stream = x + batch.to(tl.int64) * x_batch + channel.to(tl.int64) * x_channel
    row = batch.to(tl.int64) * channels + channel
    t = tile * TILE + tl.arange(0, TILE)
    weights = taps + (channel // channels_per_row) * TAPS
    before = history + row * (TAPS - 1)
    total = project_at(stream, before, weights, t, length, tile == 0, 0, TAPS, HISTORY)
    current = tl.load(stream + t, mask=t < length, other=0.0).to(tl.float32)
    total = finish(total, current, bias, skip, channel, BIAS, SKIP, ACTIVATION)
    tl.store(y + row * length + t, total.to(y.dtype.element_ty), mask=t < length)


@triton.jit(do_not_specialize=["tap_count"])
def causal_conv_toeplitz_kernel(
    x, taps, bias, skip, history, y, length, channels, channels_per_row, x_batch, x_channel,
    tap_count, DIAGONALS: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr, HISTORY: tl.constexpr,
    BIAS: tl.constexpr, SKIP: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one channel, COUNT blocks of BLOCK samples as rows times one Toeplitz block a diagonal.

    Filters with equally many diagonals share one compiled kernel.
    """
    channel, batch, tile = tl.program_id(1), tl.program_id(2), tl.program_id(0)
    stream = x + batch.to(tl.int64) * x_batch + channel.to(tl.int64) * x_channel
    row = batch.to(tl.int64) * channels + channel
    t = tile * COUNT * BLOCK + tl.arange(0, COUNT)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    weights = taps + (channel // channels_per_row) * tap_count
    before = history + row * (tap_count - 1)
    current = sample_at(stream, before, t, length, tap_count - 1, False, False)
    total = tl.dot(current, toeplitz_at(weights, 0, tap_count, BLOCK), input_precision=PRECISION)
    for d in tl.static_range(1, DIAGONALS):
        earlier = sample_at(stream, before, t - d * BLOCK, length, tap_count - 1, tile == 0, HISTORY)
        total = tl.dot(earlier, toeplitz_at(weights, d, tap_count, BLOCK), total, input_precision=PRECISION)
    total = finish(total, current, bias, skip, channel, BIAS, SKIP, ACTIVATION)
    tl.store(y + row * length + t, total.to(y.dtype.element_ty), mask=t < length)
