"""The kernels of gated_product: a program a tile of one row."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl


@triton.jit
def _gaussian(gate):
    """The share of a normal distribution below ``gate``, by which GELU multiplies."""
    return 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))


@triton.jit
def gated_product_kernel(
    gates, values, y, gate_stride, value_stride, channels, GELU: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Multiplies the branches of one row."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    present = channel < channels
    gate = tl.load(gates + row * gate_stride + channel, mask=present, other=0.0).to(tl.float32)
    value = tl.load(values + row * value_stride + channel, mask=present, other=0.0).to(tl.float32)
    if GELU:
        gate *= _gaussian(gate)
    tl.store(y + row * channels + channel, (gate * value).to(y.dtype.element_ty), mask=present)


@triton.jit
def gated_product_backward_kernel(
    gates, values, to_y, to_gates, to_values, gate_stride, value_stride, gradient_stride, channels,
    GELU: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of both branches of one row."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    present = channel < channels
    gate = tl.load(gates + row * gate_stride + channel, mask=present, other=0.0).to(tl.float32)
    value = tl.load(values + row * value_stride + channel, mask=present, other=0.0).to(tl.float32)
    upstream = tl.load(to_y + row * channels + channel, mask=present, other=0.0).to(tl.float32)
    active, slope = gate, 1.0
    if GELU:
        share = _gaussian(gate)
        active = gate * share
        slope = share + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    at = row * gradient_stride + channel
    tl.store(to_gates + at, (upstream * value * slope).to(to_gates.dtype.element_ty), mask=present)
    tl.store(to_values + at, (upstream * active).to(to_values.dtype.element_ty), mask=present)
