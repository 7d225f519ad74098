"""The kernel of modal_conv: a modal scan in one pass over x, marching along time; see gated_modal_conv/triton."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.gated_modal_conv.triton.kernels import leave_tile


@triton.jit
def modal_conv_kernel(
    x, log_poles, residues, modal_taps, skip, history, y, state, length, channels, states, x_batch, x_channel,
    STATES: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr, HISTORY: tl.constexpr, SKIP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one channel of one batch row, over all of time."""
    channel, batch = tl.program_id(0), tl.program_id(1)
    row = batch.to(tl.int64) * channels + channel
    stream = x + batch.to(tl.int64) * x_batch + channel.to(tl.int64) * x_channel
    tile: tl.constexpr = COUNT * BLOCK

    s = tl.arange(0, STATES)
    i = tl.arange(0, BLOCK)
    n = tl.arange(0, COUNT)
    pole = tl.load(log_poles + channel * states + s, mask=s < states, other=0.0).to(tl.float32)
    residue = tl.load(residues + channel * states + s, mask=s < states, other=0.0).to(tl.float32)
    lag = i[None, :] - i[:, None]
    local = tl.load(modal_taps + channel * BLOCK + lag, mask=lag >= 0, other=0.0)
    collect = tl.exp(pole[None, :] * (BLOCK - 1 - i)[:, None].to(tl.float32))
    spread = residue[:, None] * tl.exp(pole[:, None] * (i + 1)[None, :].to(tl.float32))
    distance = n[:, None] - 1 - n[None, :]
    between = tl.exp(pole[None, None, :] * (BLOCK * tl.maximum(distance, 0)).to(tl.float32)[:, :, None])
    between = tl.where((distance >= 0)[:, :, None], between, 0.0)
    enter = tl.exp(pole[None, :] * (BLOCK * n).to(tl.float32)[:, None])
    factor = 0.0
    if SKIP:
        factor = tl.load(skip + channel).to(tl.float32)
    entering = tl.zeros((STATES,), dtype=tl.float32)
    if HISTORY:
        entering = tl.load(history + row * states + s, mask=s < states, other=0.0).to(tl.float32)

    for start in range(0, length, tile):
        t = start + n[:, None] * BLOCK + i[None, :]
        g = tl.load(stream + t, mask=t < length, other=0.0).to(tl.float32)
        updates = tl.dot(g, collect, input_precision="tf32x3")
        chunks = tl.sum(between * updates[None, :, :], axis=1) + enter * entering[None, :]
        total = tl.dot(g, local, input_precision=PRECISION)
        total = tl.dot(chunks, spread, total, input_precision=PRECISION)
        if SKIP:
            total += factor * g
        tl.store(y + row * length + t, total.to(y.dtype.element_ty), mask=t < length)
        entering = leave_tile(entering, updates, g, pole, tl.minimum(length - start, tile), n, i, BLOCK)
    tl.store(state + row * states + s, entering, mask=s < states)
