"""The kernels of rotary: a program makes the tables of a few tokens and turns all heads by them."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl


@triton.jit
def _turn(low, high, cos, sin, at, half, y, present):
    """Stores a rotated head."""
    tl.store(y + at, (low * cos - high * sin).to(y.dtype.element_ty), mask=present)
    tl.store(y + at + half, (low * sin + high * cos).to(y.dtype.element_ty), mask=present)


@triton.jit
def rotary_kernel(
    x, position, inv_freq, y, scale, direction, length, heads, half,
    x_batch, x_time, x_head, position_batch, position_time,
    TOKENS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Turns ``[batch, length, head, size]``; ``direction`` -1 turns back."""
    batch = tl.program_id(1).to(tl.int64)
    time = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    pair = tl.arange(0, PAIRS)
    present = (time < length)[:, None] & (pair < half)[None, :]
    at = tl.load(position + batch * position_batch + time * position_time, mask=time < length, other=0)
    frequency = tl.load(inv_freq + pair, mask=pair < half, other=0.0)
    angle = tl.div_rn(at.to(tl.float32), scale)[:, None] * frequency[None, :]
    cos, sin = tl.cos(angle), tl.sin(angle) * direction
    x_head = tl.cast(x_head, tl.int64)
    source = x + batch * x_batch + (time * x_time)[:, None] + pair[None, :]
    target = ((batch * length + time) * heads)[:, None] * (2 * half) + pair[None, :]
    for head in range(heads):
        low = tl.load(source + head * x_head, mask=present, other=0.0).to(tl.float32)
        high = tl.load(source + head * x_head + half, mask=present, other=0.0).to(tl.float32)
        _turn(low, high, cos, sin, target + head * 2 * half, half, y, present)


@triton.jit
def rotary_into_kernel(
    qkv, position, inv_freq, y, keys, values, scale, length, heads, half,
    x_batch, x_time, x_head, x_part, position_batch, position_time,
    key_batch, key_time, key_head, value_batch, value_time, value_head,
    TOKENS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Turns queries into y and keys into their place, and copies values into theirs."""
    batch = tl.program_id(1).to(tl.int64)
    time = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    pair = tl.arange(0, PAIRS)
    present = (time < length)[:, None] & (pair < half)[None, :]
    at = tl.load(position + batch * position_batch + time * position_time, mask=time < length, other=0)
    frequency = tl.load(inv_freq + pair, mask=pair < half, other=0.0)
    angle = tl.div_rn(at.to(tl.float32), scale)[:, None] * frequency[None, :]
    cos, sin = tl.cos(angle), tl.sin(angle)
    x_head, x_part = tl.cast(x_head, tl.int64), tl.cast(x_part, tl.int64)
    key_head, value_head = tl.cast(key_head, tl.int64), tl.cast(value_head, tl.int64)
    source = qkv + batch * x_batch + (time * x_time)[:, None] + pair[None, :]
    target = ((batch * length + time) * heads)[:, None] * (2 * half) + pair[None, :]
    key_at = batch * key_batch + (time * key_time)[:, None] + pair[None, :]
    value_at = batch * value_batch + (time * value_time)[:, None] + pair[None, :]
    for head in range(heads):
        query = source + head * x_head
        low = tl.load(query, mask=present, other=0.0).to(tl.float32)
        high = tl.load(query + half, mask=present, other=0.0).to(tl.float32)
        _turn(low, high, cos, sin, target + head * 2 * half, half, y, present)
        low = tl.load(query + x_part, mask=present, other=0.0).to(tl.float32)
        high = tl.load(query + x_part + half, mask=present, other=0.0).to(tl.float32)
        _turn(low, high, cos, sin, key_at + head * key_head, half, keys, present)
        low = tl.load(query + 2 * x_part, mask=present, other=0.0)
        high = tl.load(query + 2 * x_part + half, mask=present, other=0.0)
        tl.store(values + value_at + head * value_head, low.to(values.dtype.element_ty), mask=present)
        tl.store(values + value_at + head * value_head + half, high.to(values.dtype.element_ty), mask=present)
