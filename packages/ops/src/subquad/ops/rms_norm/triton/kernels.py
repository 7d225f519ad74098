"""The kernels of rms_norm: a program a row forward, a program a few rows backward."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl


@triton.jit
def rms_norm_kernel(
    x, addend, scale, y, total, x_stride, addend_stride, channels, eps,
    ADD: tl.constexpr, VORTEX: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Adds, stores the sum rounded, and normalises it unrounded."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    present = channel < channels
    value = tl.load(x + row * x_stride + channel, mask=present, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(addend + row * addend_stride + channel, mask=present, other=0.0).to(tl.float32)
        tl.store(total + row * channels + channel, value.to(total.dtype.element_ty), mask=present)
    mean_square = tl.sum(value * value, axis=0) / channels
    inverse = 1.0 / (tl.sqrt(mean_square) + eps) if VORTEX else 1.0 / tl.sqrt(mean_square + eps)
    factor = tl.load(scale + channel, mask=present, other=0.0).to(tl.float32)
    tl.store(y + row * channels + channel, (value * inverse * factor).to(y.dtype.element_ty), mask=present)


@triton.jit
def rms_norm_backward_kernel(
    total, scale, to_y, to_total, to_x, to_scale, rows, channels, eps,
    UPSTREAM: tl.constexpr, VORTEX: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of every row, and of scale the part that this program's rows give."""
    channel = tl.arange(0, CHANNELS)
    present = channel < channels
    factor = tl.load(scale + channel, mask=present, other=0.0).to(tl.float32)
    gathered = tl.zeros((CHANNELS,), dtype=tl.float32)
    width = tl.zeros((CHANNELS,), dtype=tl.int64) + channels  # rows times channels may pass 2 ** 31
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = row * width + channel
        value = tl.load(total + at, mask=present, other=0.0).to(tl.float32)
        upstream = tl.load(to_y + at, mask=present, other=0.0).to(tl.float32)
        mean_square = tl.sum(value * value, axis=0) / channels
        if VORTEX:
            root = tl.sqrt(mean_square)
            inverse = 1.0 / (root + eps)
            slope = tl.where(root > 0.0, inverse * inverse / tl.maximum(root, 1e-30), 0.0)
        else:
            inverse = 1.0 / tl.sqrt(mean_square + eps)
            slope = inverse * inverse * inverse
        weighted = upstream * factor
        shared = tl.sum(weighted * value, axis=0) / channels * slope
        gradient = weighted * inverse - value * shared
        if UPSTREAM:
            gradient += tl.load(to_total + at, mask=present, other=0.0).to(tl.float32)
        tl.store(to_x + at, gradient.to(to_x.dtype.element_ty), mask=present)
        gathered += upstream * value * inverse
    tl.store(to_scale + tl.program_id(0) * channels + channel, gathered, mask=present)
