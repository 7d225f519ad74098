"""The kernels of gated_linear_step: two weight matrices against the same vectors, and the product of the results."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.linear_step.triton.pieces import (
    add_row,
    await_previous,
    bring_to_cache,
    inverse_root_mean_square,
    unscaled,
    vector_tile,
    weight_tile,
)


@triton.jit
def _gated(gate, value, GELU: tl.constexpr):
    if GELU:
        gate = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    return gate * value


@triton.jit
def gated_linear_step_kernel(
    x, scale, gate_weight, value_weight, gate_scale, value_scale, y, outputs, inputs, eps,
    upcoming, upcoming_rows, upcoming_row_bytes, upcoming_lines,
    ROWS: tl.constexpr, PADDED: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
    NORM: tl.constexpr, SCALED: tl.constexpr, GELU: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Computes OUT outputs of every vector."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    present = output < outputs
    column = tl.arange(0, IN)
    vector = tl.arange(0, PADDED)
    gate_rows = gate_weight + output.to(tl.int64) * inputs
    value_rows = value_weight + output.to(tl.int64) * inputs
    gate_tile = weight_tile(gate_rows, present, 0, column, inputs)
    value_tile = weight_tile(value_rows, present, 0, column, inputs)
    await_previous(DEPENDENT)
    bring_to_cache(upcoming, upcoming_rows, upcoming_row_bytes, upcoming_lines, DEPENDENT)
    gates = tl.zeros([PADDED, OUT], tl.float32)
    values = tl.zeros([PADDED, OUT], tl.float32)
    squares = tl.zeros([PADDED], tl.float32)
    if ROWS == 1:
        gate_total = tl.zeros([OUT, IN], tl.float32)
        value_total = tl.zeros([OUT, IN], tl.float32)
        square = tl.zeros([IN], tl.float32)
        for start in range(0, inputs, IN):
            gate_next = weight_tile(gate_rows, present, start + IN, column, inputs)
            value_next = weight_tile(value_rows, present, start + IN, column, inputs)
            plain, scaled = vector_tile(x, scale, start, column, inputs, NORM)
            gate_total += gate_tile.to(tl.float32) * scaled[None, :]
            value_total += value_tile.to(tl.float32) * scaled[None, :]
            square += plain * plain
            gate_tile = gate_next
            value_tile = value_next
        gates += tl.sum(gate_total, axis=1)[None, :]
        values += tl.sum(value_total, axis=1)[None, :]
        squares += tl.sum(square, axis=0)
    else:
        for start in range(0, inputs, IN):
            gate_next = weight_tile(gate_rows, present, start + IN, column, inputs)
            value_next = weight_tile(value_rows, present, start + IN, column, inputs)
            gate_wide = gate_tile.to(tl.float32)
            value_wide = value_tile.to(tl.float32)
            for row in tl.static_range(ROWS):
                plain, scaled = vector_tile(x + row * inputs, scale, start, column, inputs, NORM)
                gates = add_row(gates, tl.sum(gate_wide * scaled[None, :], axis=1), row, PADDED)
                values = add_row(values, tl.sum(value_wide * scaled[None, :], axis=1), row, PADDED)
                if NORM != 0:
                    squares += tl.where(vector == row, tl.sum(plain * plain, axis=0), 0.0)
            gate_tile = gate_next
            value_tile = value_next
    if NORM != 0:
        factor = inverse_root_mean_square(squares, inputs, eps, NORM)[:, None]
        gates = gates * factor
        values = values * factor
    gates = unscaled(gates, gate_scale, output, present, SCALED)
    values = unscaled(values, value_scale, output, present, SCALED)
    inside = (vector < ROWS)[:, None] & present[None, :]
    result = _gated(gates, values, GELU)
    tl.store(y + vector[:, None] * outputs + output[None, :], result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def wide_gated_linear_step_kernel(
    x, gate_weight, value_weight, gate_scale, value_scale, y, vectors, outputs, inputs,
    ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, STAGES: tl.constexpr,
    SCALED: tl.constexpr, GELU: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Computes OUT outputs of up to ROWS vectors on tensor cores, weights as the left matrices."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    vector = tl.arange(0, ROWS)
    column = tl.arange(0, IN)
    present = output < outputs
    place = output.to(tl.int64)[:, None] * inputs
    gates = tl.zeros([OUT, ROWS], tl.float32)
    values = tl.zeros([OUT, ROWS], tl.float32)
    await_previous(DEPENDENT)
    for start in tl.range(0, inputs, IN, num_stages=STAGES):
        within = start + column < inputs
        mask = present[:, None] & within[None, :]
        right = tl.load(
            x + vector[None, :] * inputs + (start + column)[:, None],
            mask=(vector < vectors)[None, :] & within[:, None],
            other=0.0,
        )
        gate = tl.load(gate_weight + place + (start + column)[None, :], mask=mask, other=0.0)
        value = tl.load(value_weight + place + (start + column)[None, :], mask=mask, other=0.0)
        gates = tl.dot(gate.to(right.dtype), right, gates)
        values = tl.dot(value.to(right.dtype), right, values)
    if SCALED:
        gates = gates / tl.load(gate_scale + output, mask=present, other=1.0)[:, None]
        values = values / tl.load(value_scale + output, mask=present, other=1.0)[:, None]
    inside = (vector < vectors)[None, :] & present[:, None]
    result = _gated(gates, values, GELU)
    tl.store(y + vector[None, :] * outputs + output[:, None], result.to(y.dtype.element_ty), mask=inside)
