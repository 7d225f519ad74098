"""The kernels of rounded_rows: a program a row, or some tokens where the channels come first."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl


@triton.jit
def _scale(largest):
    """Returns what makes the largest number of a row 448, and 1 for a row of zeros."""
    one = tl.full(largest.shape, 1.0, tl.float32)
    return tl.where(largest > 0.0, tl.div_rn(448.0 * one, tl.where(largest > 0.0, largest, one)), one)


@triton.jit
def _rounded(value):
    return tl.clamp(value, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL).to(tl.float8e4nv)


@triton.jit
def _store_row(value, codes, inverse, row, channel, channels, present):
    """Rounds and stores one row."""
    factor = _scale(tl.max(tl.abs(value), axis=0, keep_dims=True))
    tl.store(inverse + row + tl.arange(0, 1), tl.div_rn(tl.full((1,), 1.0, tl.float32), factor))
    tl.store(codes + row * channels + channel, _rounded(value * factor), mask=present)


@triton.jit
def rounded_norm_kernel(
    x, addend, scale, codes, inverse, total, x_stride, addend_stride, channels, eps,
    ADD: tl.constexpr, NORM: tl.constexpr, VORTEX: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Adds, stores the sum, normalises it unrounded, and rounds; each where it is asked for."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    present = channel < channels
    value = tl.load(x + row * x_stride + channel, mask=present, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(addend + row * addend_stride + channel, mask=present, other=0.0).to(tl.float32)
        tl.store(total + row * channels + channel, value.to(total.dtype.element_ty), mask=present)
    if NORM:
        mean_square = tl.sum(value * value, axis=0) / channels
        length = 1.0 / (tl.sqrt(mean_square) + eps) if VORTEX else 1.0 / tl.sqrt(mean_square + eps)
        value = value * length * tl.load(scale + channel, mask=present, other=0.0).to(tl.float32)
    _store_row(value, codes, inverse, row, channel, channels, present)


@triton.jit
def rounded_product_kernel(
    gates, values, codes, inverse, gate_stride, value_stride, channels, GELU: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """Multiplies the branches of one row and rounds."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    present = channel < channels
    gate = tl.load(gates + row * gate_stride + channel, mask=present, other=0.0).to(tl.float32)
    value = tl.load(values + row * value_stride + channel, mask=present, other=0.0).to(tl.float32)
    if GELU:
        gate = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    _store_row(gate * value, codes, inverse, row, channel, channels, present)


@triton.jit
def rounded_columns_kernel(
    x, codes, inverse, batch_stride, channel_stride, length, channels, TOKENS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """Rounds TOKENS tokens of one sequence whose channels come first, and stores them channels last."""
    batch = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    present = token < length
    source = x + batch * batch_stride
    largest = tl.zeros([TOKENS], tl.float32)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = (channel < channels)[:, None] & present[None, :]
        at = channel.to(tl.int64)[:, None] * channel_stride + token[None, :]
        value = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(value), axis=0))
    factor = _scale(largest)
    row = batch * length + token
    tl.store(inverse + row, tl.div_rn(tl.full([TOKENS], 1.0, tl.float32), factor), mask=present)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = (channel < channels)[:, None] & present[None, :]
        at = channel.to(tl.int64)[:, None] * channel_stride + token[None, :]
        value = tl.load(source + at, mask=inside, other=0.0).to(tl.float32) * factor[None, :]
        tl.store(codes + row[None, :] * channels + channel[:, None], _rounded(value), mask=inside)
