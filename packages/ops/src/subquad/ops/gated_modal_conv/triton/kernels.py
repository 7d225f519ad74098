"""The kernels of gated_modal_conv: projection, gate, modal scan and gate in one pass over z, marching along time.

A tile is COUNT chunks of BLOCK samples, one chunk a row: G [COUNT, BLOCK]. With H, P, O as in modal_conv/chunked.py,
``U = G @ P`` are the state updates of the chunks and ``Y = G @ H + S @ O`` their outputs, where the state S in which
chunk i starts is ``sum(exp(log_poles * BLOCK * (i - 1 - j)) * U[j] for j < i)`` plus what the tile was entered with.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.causal_conv.triton.streams import project_at


@triton.jit
def modal_taps_kernel(log_poles, residues, taps, states, BLOCK: tl.constexpr, STATES: tl.constexpr):
    """One program: the first BLOCK taps of one channel's filter, summed in float64."""
    channel = tl.program_id(0)
    s = tl.arange(0, STATES)
    pole = tl.load(log_poles + channel * states + s, mask=s < states, other=0.0).to(tl.float64)
    residue = tl.load(residues + channel * states + s, mask=s < states, other=0.0).to(tl.float64)
    t = tl.arange(0, BLOCK)
    terms = residue[None, :] * tl.exp(pole[None, :] * t[:, None].to(tl.float64))
    tl.store(taps + channel * BLOCK + t, tl.sum(terms, axis=1).to(tl.float32))


@triton.jit
def leave_tile(entering, updates, g, pole, samples, n, i, BLOCK: tl.constexpr):
    """The state after the last of a tile's samples, which may stand inside chunk ``samples // BLOCK``."""
    count = samples // BLOCK
    rest = samples - count * BLOCK
    to_end = samples - (n + 1) * BLOCK
    ahead = tl.exp(pole[None, :] * tl.maximum(to_end, 0).to(tl.float32)[:, None])
    leaving = entering * tl.exp(pole * samples.to(tl.float32))
    leaving += tl.sum(tl.where((to_end >= 0)[:, None], ahead * updates, 0.0), axis=0)
    if rest > 0:
        chunk = tl.sum(tl.where((n == count)[:, None], g, 0.0), axis=0)
        remaining = rest - 1 - i
        decay = tl.exp(pole[None, :] * tl.maximum(remaining, 0).to(tl.float32)[:, None])
        leaving += tl.sum(tl.where((remaining >= 0)[:, None], decay * chunk[:, None], 0.0), axis=0)
    return leaving


@triton.jit
def gated_modal_conv_kernel(
    z, projection_taps, log_poles, residues, modal_taps, skip, history, modal_history, y, state,
    length, channels, states, z_batch, z_channel,
    PROJECTION: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr, HISTORY: tl.constexpr,
    SKIP: tl.constexpr, PREGATE: tl.constexpr, POSTGATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one channel of one batch row, over all of time."""
    channel, batch = tl.program_id(0), tl.program_id(1)
    row = batch.to(tl.int64) * channels + channel
    past: tl.constexpr = PROJECTION - 1
    tile: tl.constexpr = COUNT * BLOCK
    z_channel = tl.cast(z_channel, tl.int64)
    stream = z + batch.to(tl.int64) * z_batch + 3 * channel * z_channel
    before = history + 3 * row * past
    weights = projection_taps + 3 * channel * PROJECTION

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
        entering = tl.load(modal_history + row * states + s, mask=s < states, other=0.0).to(tl.float32)

    offsets = n[:, None] * BLOCK + i[None, :]
    for start in range(0, length, tile):
        t = start + offsets
        first = start == 0
        g = project_at(
            stream + 2 * z_channel, before + 2 * past, weights + 2 * PROJECTION, t, length, first,
            0, PROJECTION, HISTORY,
        )  # fmt: skip
        if PREGATE:
            g *= project_at(
                stream + z_channel, before + past, weights + PROJECTION, t, length, first, 0, PROJECTION, HISTORY
            )
        g = tl.where(t < length, g, 0.0)
        updates = tl.dot(g, collect, input_precision="tf32x3")
        chunks = tl.sum(between * updates[None, :, :], axis=1) + enter * entering[None, :]
        total = tl.dot(g, local, input_precision=PRECISION)
        total = tl.dot(chunks, spread, total, input_precision=PRECISION)
        if SKIP:
            total += factor * g
        if POSTGATE:
            total *= project_at(stream, before, weights, t, length, first, 0, PROJECTION, HISTORY)
        tl.store(y + row * length + t, total.to(y.dtype.element_ty), mask=t < length)

        entering = leave_tile(entering, updates, g, pole, tl.minimum(length - start, tile), n, i, BLOCK)
    tl.store(state + row * states + s, entering, mask=s < states)
