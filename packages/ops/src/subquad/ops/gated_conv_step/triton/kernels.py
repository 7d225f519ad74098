"""The kernels of gated_conv_step and gated_modal_step: projection filter, gate, mixer filter, gate, of one token.

A program owns some channels of one vector. In the projected form it makes their rows itself: rows ``3 * c``, ``3 * c +
1`` and ``3 * c + 2`` of the projection lie in one program, which then has all that channel c needs. What rings and
states hold is on its way while the product is taken. Rings and states change in place.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.linear_step.triton.pieces import (
    await_previous,
    bring_to_cache,
    inverse_root_mean_square,
    vector_tile,
    weight_tile,
)
from subquad.ops.selective_scan.triton.exponential import exact_exp


@triton.jit
def _lagged_taps(taps, row, past, time, present, SLOTS: tl.constexpr):
    """Loads the tap that meets each slot of a ring at this time: ``[channel, SLOTS]``."""
    slot = tl.arange(0, SLOTS)
    lag = time % past - slot
    lag = tl.where(lag > 0, lag, lag + past)
    inside = present[:, None] & (slot < past)[None, :]
    return tl.load(taps + (row * (past + 1))[:, None] + lag[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _first_tap(taps, row, past, present):
    """Loads the tap that meets the current sample."""
    return tl.load(taps + row * (past + 1), mask=present, other=0.0).to(tl.float32)


@triton.jit
def _held(memory, row, size, present, WIDTH: tl.constexpr):
    """Loads the ring or the modes of each channel: ``[channel, WIDTH]``."""
    slot = tl.arange(0, WIDTH)
    inside = present[:, None] & (slot < size)[None, :]
    return tl.load(memory + (row * size)[:, None] + slot[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _filtered(sample, first, held, taps):
    """Filters a sample whose past is held in a ring."""
    return first * sample.to(tl.float32) + tl.sum(held * taps, axis=1)


@triton.jit
def _remember(ring, row, past, time, sample, write):
    """Overwrites the oldest sample of each ring."""
    tl.store(ring + row * past + time % past, sample.to(ring.dtype.element_ty), mask=write)


@triton.jit
def _advanced(memory, row, size, pole, residue, held, g, write, WIDTH: tl.constexpr):
    """Advances the modes of each channel by a sample, stores them and returns the filter's output."""
    advanced = pole * held + g.to(tl.float32)[:, None]
    mode = tl.arange(0, WIDTH)
    inside = write[:, None] & (mode < size)[None, :]
    tl.store(memory + (row * size)[:, None] + mode[None, :], advanced.to(memory.dtype.element_ty), mask=inside)
    return tl.sum(residue * advanced, axis=1)


@triton.jit
def _three_products(
    x, scale, q_rows, k_rows, v_rows, q_tile, k_tile, v_tile, present, inputs, eps,
    CHANNELS: tl.constexpr, IN: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Returns three sums a channel, of its rows of the projection with the vector, and the factor of the norm.

    The first tile of each row is given, as it was asked for before the vector was there.
    """
    column = tl.arange(0, IN)
    q_total = tl.zeros([CHANNELS, IN], tl.float32)
    k_total = tl.zeros([CHANNELS, IN], tl.float32)
    v_total = tl.zeros([CHANNELS, IN], tl.float32)
    square = tl.zeros([IN], tl.float32)
    for start in range(0, inputs, IN):
        q_next = weight_tile(q_rows, present, start + IN, column, inputs)
        k_next = weight_tile(k_rows, present, start + IN, column, inputs)
        v_next = weight_tile(v_rows, present, start + IN, column, inputs)
        plain, scaled = vector_tile(x, scale, start, column, inputs, NORM)
        q_total += q_tile.to(tl.float32) * scaled[None, :]
        k_total += k_tile.to(tl.float32) * scaled[None, :]
        v_total += v_tile.to(tl.float32) * scaled[None, :]
        square += plain * plain
        q_tile = q_next
        k_tile = k_next
        v_tile = v_next
    factor = 1.0
    if NORM != 0:
        factor = inverse_root_mean_square(tl.sum(square, axis=0), inputs, eps, NORM)
    return tl.sum(q_total, axis=1), tl.sum(k_total, axis=1), tl.sum(v_total, axis=1), factor


@triton.jit
def gated_step_kernel(
    z, short_taps, projection, first, second, memory, position, skip, active, y, channels, channels_per_row, size,
    short_past,
    CHANNELS: tl.constexpr, SHORT: tl.constexpr, WIDTH: tl.constexpr, MODAL: tl.constexpr, SKIP: tl.constexpr,
    ACTIVE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Takes CHANNELS channels of one vector, whose projected rows are given, through filters and gates.

    ``first`` holds the taps or the log poles, ``second`` the residues, ``memory`` the rings or the modes; WIDTH and
    SHORT are ``size`` and ``short_past`` up to a power of two.
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    batch = tl.program_id(1).to(tl.int64)
    present = channel < channels
    row = 3 * channel
    await_previous(DEPENDENT)
    place = batch * 3 * channels + row
    zq = tl.load(z + place, mask=present, other=0.0)
    zk = tl.load(z + place + 1, mask=present, other=0.0)
    zv = tl.load(z + place + 2, mask=present, other=0.0)
    q_held = _held(projection, place, short_past, present, SHORT)
    k_held = _held(projection, place + 1, short_past, present, SHORT)
    v_held = _held(projection, place + 2, short_past, present, SHORT)
    mixer = batch * channels + channel
    held = _held(memory, mixer, size, present, WIDTH)
    time = tl.load(position + batch).to(tl.int32)
    write = present
    if ACTIVE:
        write = present & (tl.load(active + batch) != 0)
    q_taps = _lagged_taps(short_taps, row, short_past, time, present, SHORT)
    k_taps = _lagged_taps(short_taps, row + 1, short_past, time, present, SHORT)
    v_taps = _lagged_taps(short_taps, row + 2, short_past, time, present, SHORT)
    if MODAL:
        pole = exact_exp(_held(first, channel, size, present, WIDTH))
        residue = _held(second, channel, size, present, WIDTH)
    else:
        taps = _lagged_taps(first, channel // channels_per_row, size, time, present, WIDTH)
    q = _filtered(zq, _first_tap(short_taps, row, short_past, present), q_held, q_taps).to(zq.dtype)
    k = _filtered(zk, _first_tap(short_taps, row + 1, short_past, present), k_held, k_taps).to(zq.dtype)
    v = _filtered(zv, _first_tap(short_taps, row + 2, short_past, present), v_held, v_taps).to(zq.dtype)
    g = (k.to(tl.float32) * v.to(tl.float32)).to(zq.dtype)
    tl.debug_barrier()  # what follows is stored by other threads than have read it
    _remember(projection, place, short_past, time, zq, write)
    _remember(projection, place + 1, short_past, time, zk, write)
    _remember(projection, place + 2, short_past, time, zv, write)
    if MODAL:
        total = _advanced(memory, mixer, size, pole, residue, held, g, write, WIDTH)
    else:
        total = _filtered(g, _first_tap(first, channel // channels_per_row, size, present), held, taps)
        _remember(memory, mixer, size, time, g, write)
    if SKIP:
        total += tl.load(skip + channel, mask=present, other=0.0).to(tl.float32) * g.to(tl.float32)
    gated = q.to(tl.float32) * total.to(zq.dtype).to(tl.float32)
    tl.store(y + mixer, gated.to(y.dtype.element_ty), mask=present)


@triton.jit
def projected_gated_step_kernel(
    x, scale, weight, weight_scale, short_taps, projection, first, second, memory, position, skip, active, y,
    channels, channels_per_row, size, short_past, inputs, eps,
    upcoming, upcoming_rows, upcoming_row_bytes, upcoming_lines,
    CHANNELS: tl.constexpr, IN: tl.constexpr, NORM: tl.constexpr, SHORT: tl.constexpr, WIDTH: tl.constexpr,
    SCALED: tl.constexpr, MODAL: tl.constexpr, SKIP: tl.constexpr, ACTIVE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Makes the projected rows of CHANNELS channels of the one vector, then takes them through filters and gates."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    present = channel < channels
    row = 3 * channel
    column = tl.arange(0, IN)
    q_rows = weight + row.to(tl.int64) * inputs
    k_rows, v_rows = q_rows + inputs, q_rows + 2 * inputs
    q_tile = weight_tile(q_rows, present, 0, column, inputs)
    k_tile = weight_tile(k_rows, present, 0, column, inputs)
    v_tile = weight_tile(v_rows, present, 0, column, inputs)
    time = tl.load(position).to(tl.int32)
    write = present
    if ACTIVE:
        write = present & (tl.load(active) != 0)
    await_previous(DEPENDENT)
    bring_to_cache(upcoming, upcoming_rows, upcoming_row_bytes, upcoming_lines, DEPENDENT)
    q_taps = _lagged_taps(short_taps, row, short_past, time, present, SHORT)
    k_taps = _lagged_taps(short_taps, row + 1, short_past, time, present, SHORT)
    v_taps = _lagged_taps(short_taps, row + 2, short_past, time, present, SHORT)
    q_held = _held(projection, row, short_past, present, SHORT)
    k_held = _held(projection, row + 1, short_past, present, SHORT)
    v_held = _held(projection, row + 2, short_past, present, SHORT)
    q_first = _first_tap(short_taps, row, short_past, present)
    k_first = _first_tap(short_taps, row + 1, short_past, present)
    v_first = _first_tap(short_taps, row + 2, short_past, present)
    held = _held(memory, channel, size, present, WIDTH)
    if MODAL:
        log_pole = _held(first, channel, size, present, WIDTH)
        residue = _held(second, channel, size, present, WIDTH)
    else:
        taps = _lagged_taps(first, channel // channels_per_row, size, time, present, WIDTH)
        mixer_first = _first_tap(first, channel // channels_per_row, size, present)
    skipped = tl.zeros([CHANNELS], tl.float32)
    if SKIP:
        skipped = tl.load(skip + channel, mask=present, other=0.0).to(tl.float32)
    q_sum, k_sum, v_sum, factor = _three_products(
        x, scale, q_rows, k_rows, v_rows, q_tile, k_tile, v_tile, present, inputs, eps, CHANNELS, IN, NORM
    )
    if SCALED:
        q_sum /= tl.load(weight_scale + row, mask=present, other=1.0)
        k_sum /= tl.load(weight_scale + row + 1, mask=present, other=1.0)
        v_sum /= tl.load(weight_scale + row + 2, mask=present, other=1.0)
    element = y.dtype.element_ty
    zq = (q_sum * factor).to(element)
    zk = (k_sum * factor).to(element)
    zv = (v_sum * factor).to(element)
    q = _filtered(zq, q_first, q_held, q_taps).to(element)
    k = _filtered(zk, k_first, k_held, k_taps).to(element)
    v = _filtered(zv, v_first, v_held, v_taps).to(element)
    g = (k.to(tl.float32) * v.to(tl.float32)).to(element)
    tl.debug_barrier()  # what follows is stored by other threads than have read it
    _remember(projection, row, short_past, time, zq, write)
    _remember(projection, row + 1, short_past, time, zk, write)
    _remember(projection, row + 2, short_past, time, zv, write)
    if MODAL:
        total = _advanced(memory, channel, size, exact_exp(log_pole), residue, held, g, write, WIDTH)
    else:
        total = _filtered(g, mixer_first, held, taps)
        _remember(memory, channel, size, time, g, write)
    total += skipped * g.to(tl.float32)
    tl.store(y + channel, (q.to(tl.float32) * total.to(element).to(tl.float32)).to(element), mask=present)
