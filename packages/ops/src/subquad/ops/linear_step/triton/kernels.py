"""The kernels of linear_step: weights in a stream against a few vectors, or against up to 64 on tensor cores."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.linear_step.triton.pieces import (
    await_previous,
    bring_to_cache,
    inverse_root_mean_square,
    row_products,
    unscaled,
    weight_tile,
)


@triton.jit
def linear_step_kernel(
    x, scale, weight, weight_scale, bias, residual, y, outputs, inputs, eps,
    upcoming, upcoming_rows, upcoming_row_bytes, upcoming_lines,
    ROWS: tl.constexpr, PADDED: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
    NORM: tl.constexpr, SCALED: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Computes OUT outputs of every vector."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    present = output < outputs
    rows = weight + output.to(tl.int64) * inputs
    first = weight_tile(rows, present, 0, tl.arange(0, IN), inputs)
    await_previous(DEPENDENT)
    bring_to_cache(upcoming, upcoming_rows, upcoming_row_bytes, upcoming_lines, DEPENDENT)
    sums = row_products(x, scale, rows, present, inputs, eps, first, ROWS, PADDED, OUT, IN, NORM)
    sums = unscaled(sums, weight_scale, output, present, SCALED)
    vector = tl.arange(0, PADDED)
    inside = (vector < ROWS)[:, None] & present[None, :]
    place = vector[:, None] * outputs + output[None, :]
    if BIAS:
        sums += tl.load(bias + output, mask=present, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        sums += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=inside)


@triton.jit
def normalised_rows_kernel(
    x, scale, y, inputs, eps, IN: tl.constexpr, NORM: tl.constexpr, DEPENDENT: tl.constexpr
):  # fmt: skip
    """Normalises one vector a program."""
    column = tl.arange(0, IN)
    inside = column < inputs
    factor = tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
    await_previous(DEPENDENT)
    place = tl.program_id(0) * inputs + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value = value * inverse_root_mean_square(tl.sum(value * value, axis=0), inputs, eps, NORM) * factor
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def wide_linear_step_kernel(
    x, weight, weight_scale, bias, residual, y, vectors, outputs, inputs,
    ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, STAGES: tl.constexpr,
    SCALED: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Computes OUT outputs of up to ROWS vectors on tensor cores, weights as the left matrix."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    vector = tl.arange(0, ROWS)
    column = tl.arange(0, IN)
    present = output < outputs
    rows = weight + output.to(tl.int64)[:, None] * inputs
    sums = tl.zeros([OUT, ROWS], tl.float32)
    await_previous(DEPENDENT)
    for start in tl.range(0, inputs, IN, num_stages=STAGES):
        within = start + column < inputs
        left = tl.load(rows + (start + column)[None, :], mask=present[:, None] & within[None, :], other=0.0)
        right = tl.load(
            x + vector[None, :] * inputs + (start + column)[:, None],
            mask=(vector < vectors)[None, :] & within[:, None],
            other=0.0,
        )
        sums = tl.dot(left.to(right.dtype), right, sums)
    if SCALED:
        sums = sums / tl.load(weight_scale + output, mask=present, other=1.0)[:, None]
    inside = (vector < vectors)[None, :] & present[:, None]
    place = vector[None, :] * outputs + output[:, None]
    if BIAS:
        sums += tl.load(bias + output, mask=present, other=0.0).to(tl.float32)[:, None]
    if RESIDUAL:
        sums += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=inside)
