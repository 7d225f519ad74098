"""The kernel that rounds rows to E4M3: a program a row."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl


@triton.jit
def round_rows_kernel(
    x, scale, codes, inverse, x_stride, rows, channels, width,
    OWN_SCALES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Scales a row by 448 over its largest number, or by one given number; rows past the end become zeros."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    present = (channel < channels) & (row < rows)
    value = tl.load(x + row * x_stride + channel, mask=present, other=0.0).to(tl.float32)
    if OWN_SCALES:
        largest = tl.max(tl.abs(value), axis=0)
        one = tl.full((), 1.0, tl.float32)
        factor = tl.where(largest > 0.0, tl.div_rn(448.0 * one, tl.where(largest > 0.0, largest, one)), one)
        tl.store(inverse + row, tl.div_rn(one, factor))
    else:
        factor = tl.load(scale)
    value = tl.clamp(value * factor, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(codes + row * width + channel, value.to(tl.float8e4nv), mask=channel < width)
