"""The selective scan and its gradients: tiles of time scanned in parallel, one after the other.

A program holds ``[channel, state, time]`` in registers, so that states never reach memory; the channels of a program
share a group's weights. What a tile needs from the one before it is a state; the forward kernel keeps those states for
the backward kernel, which goes through the tiles from the last to the first and scans each of them again. What is left
of that state at a sample is one exponential of a sum of step sizes: as a product of decays, each of them rounded, it
would lose a digit in a thousand samples.
"""

# pyright: reportCallIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from subquad.ops.selective_scan.triton.exponential import exact_exp


@triton.jit
def _joined(first_decay, first, second_decay, second):
    return first_decay * second_decay, second_decay * first + second


@triton.jit
def _tile(base, rows, row_stride, times, inside, length):
    """Loads ``base[row, time]`` in float32; 0 where a time is not in the sequence."""
    mask = inside[:, None] & (times >= 0)[None, :] & (times < length)[None, :]
    return tl.load(base + rows[:, None] * row_stride + times[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def selective_scan_kernel(
    x, step_size, decay, into, out, skip, initial, y, state, entries, length, channels, repeat, states, tiles,
    x_batch, x_channel, step_batch, step_channel, into_batch, into_group, into_state, out_batch, out_group,
    out_state, CHANNELS: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, SKIP: tl.constexpr,
    HISTORY: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Scans CHANNELS channels of one group of one sample, from the first tile to the last."""
    batch = tl.program_id(1).to(tl.int64)
    parts = tl.cdiv(repeat, CHANNELS)
    group = tl.program_id(0) // parts
    own = tl.program_id(0) % parts * CHANNELS + tl.arange(0, CHANNELS)
    inside, c = own < repeat, (group * repeat + own).to(tl.int64)
    n = tl.arange(0, STATES)
    real = n < states
    modes = inside[:, None] & real[None, :]
    rates = tl.load(decay + c[:, None] * states + n[None, :], mask=modes, other=0.0).to(tl.float32)
    place = (batch * channels + c)[:, None] * states + n[None, :]
    s = tl.zeros((CHANNELS, STATES), tl.float32)
    if HISTORY:
        s = tl.load(initial + place, mask=modes, other=0.0).to(tl.float32)
    factor = tl.zeros((CHANNELS,), tl.float32)
    if SKIP:
        factor = tl.load(skip + c, mask=inside, other=0.0).to(tl.float32)
    for tile in range(tiles):
        t = tile * BLOCK + tl.arange(0, BLOCK)
        if KEEP:
            kept = ((batch * channels + c) * tiles + tile)[:, None] * states + n[None, :]
            tl.store(entries + kept, s, mask=modes)
        delta = _tile(step_size + batch * step_batch, c, step_channel, t, inside, length)
        u = _tile(x + batch * x_batch, c, x_channel, t, inside, length)
        b = _tile(into + batch * into_batch + group * into_group, n, into_state, t, real, length)
        weights = _tile(out + batch * out_batch + group * out_group, n, out_state, t, real, length)
        a = exact_exp(delta[:, None, :] * rates[:, :, None])
        _, local = tl.associative_scan((a, (delta * u)[:, None, :] * b[None, :, :]), 2, _joined)
        reach = exact_exp(tl.cumsum(delta, axis=1)[:, None, :] * rates[:, :, None])
        all_states = reach * s[:, :, None] + local
        result = tl.sum(all_states * weights[None, :, :], axis=1) + factor[:, None] * u
        at = (batch * channels + c)[:, None] * length + t[None, :]
        tl.store(y + at, result.to(y.dtype.element_ty), mask=inside[:, None] & (t < length)[None, :])
        last = (tl.arange(0, BLOCK) == BLOCK - 1)[None, None, :]
        s = tl.sum(tl.where(last, all_states, 0.0), axis=2)
    tl.store(state + place, s, mask=modes)


@triton.jit
def _from_later_tiles(carry, to_decay, to_state, place, modes, backwards, STATE: tl.constexpr):
    """What the tiles after this one left: the gradient of their first state, and the sum for the decays so far."""
    later = tl.zeros(place.shape, tl.float32)
    sum_decay = tl.zeros(place.shape, tl.float32)
    if backwards > 0:
        later = tl.load(carry + place, mask=modes, other=0.0)
        sum_decay = tl.load(to_decay + place, mask=modes, other=0.0)
    elif STATE:
        later = tl.load(to_state + place, mask=modes, other=0.0).to(tl.float32)
    return later, sum_decay


@triton.jit
def _states_before(entry, delta, u, b, rates, first):
    """The state before each sample, from the tile's entry on. All streams are those of one sample earlier."""
    delta = tl.where(first, 0.0, delta)
    a = exact_exp(delta[:, None, :] * rates[:, :, None])
    _, local = tl.associative_scan((a, (delta * u)[:, None, :] * b[None, :, :]), 2, _joined)
    reach = exact_exp(tl.cumsum(delta, axis=1)[:, None, :] * rates[:, :, None])
    return reach * entry[:, :, None] + local


@triton.jit
def _gradients_of_states(later, delta_after, given, rates):
    """The gradient of each state: what its output gives it, and what the next one does."""
    a_after = exact_exp(delta_after[:, None, :] * rates[:, :, None])
    _, local = tl.associative_scan((a_after, given), 2, _joined, reverse=True)
    reach = exact_exp(tl.cumsum(delta_after, axis=1, reverse=True)[:, None, :] * rates[:, :, None])
    return reach * later[:, :, None] + local


@triton.jit
def selective_scan_backward_kernel(
    x, step_size, decay, into, out, skip, entries, to_y, to_state, carry, to_x, to_step, to_decay, to_into, to_out,
    length, channels, repeat, states, tiles, x_batch, x_channel, step_batch, step_channel, into_batch, into_group,
    into_state, out_batch, out_group, out_state, y_batch, y_channel, CHANNELS: tl.constexpr, COUNT: tl.constexpr,
    STATES: tl.constexpr, BLOCK: tl.constexpr, SKIP: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Goes back through the tiles of COUNT times CHANNELS channels of one group of one sample.

    ``carry`` and ``to_decay`` ``[batch, channel, state]`` are written and read again; at the end ``carry`` is the
    gradient of the state before the first sample but for the first decay. ``to_into`` and ``to_out`` are
    ``[part, batch, group, state, length]``, to be added up over the parts.
    """
    batch = tl.program_id(1).to(tl.int64)
    parts = tl.cdiv(repeat, CHANNELS * COUNT)
    group = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    n = tl.arange(0, STATES)
    real = n < states
    for backwards in range(tiles):
        tile = tiles - 1 - backwards
        t = tile * BLOCK + tl.arange(0, BLOCK)
        first = (tl.arange(0, BLOCK) == 0)[None, :]
        b = _tile(into + batch * into_batch + group * into_group, n, into_state, t, real, length)
        b_before = _tile(into + batch * into_batch + group * into_group, n, into_state, t - 1, real, length)
        weights = _tile(out + batch * out_batch + group * out_group, n, out_state, t, real, length)
        sum_into = tl.zeros((STATES, BLOCK), tl.float32)
        sum_out = tl.zeros((STATES, BLOCK), tl.float32)
        for index in range(COUNT):
            own = (part * COUNT + index) * CHANNELS + tl.arange(0, CHANNELS)
            inside, c = own < repeat, (group * repeat + own).to(tl.int64)
            modes = inside[:, None] & real[None, :]
            rates = tl.load(decay + c[:, None] * states + n[None, :], mask=modes, other=0.0).to(tl.float32)
            place = (batch * channels + c)[:, None] * states + n[None, :]
            kept = ((batch * channels + c) * tiles + tile)[:, None] * states + n[None, :]
            entry = tl.load(entries + kept, mask=modes, other=0.0)
            later, sum_decay = _from_later_tiles(carry, to_decay, to_state, place, modes, backwards, STATE)
            delta = _tile(step_size + batch * step_batch, c, step_channel, t, inside, length)
            u = _tile(x + batch * x_batch, c, x_channel, t, inside, length)
            upstream = _tile(to_y + batch * y_batch, c, y_channel, t, inside, length)
            delta_before = _tile(step_size + batch * step_batch, c, step_channel, t - 1, inside, length)
            u_before = _tile(x + batch * x_batch, c, x_channel, t - 1, inside, length)
            before = _states_before(entry, delta_before, u_before, b_before, rates, first)
            a = exact_exp(delta[:, None, :] * rates[:, :, None])
            now = a * before + (delta * u)[:, None, :] * b[None, :, :]
            delta_after = _tile(step_size + batch * step_batch, c, step_channel, t + 1, inside, length)
            g = _gradients_of_states(later, delta_after, upstream[:, None, :] * weights[None, :, :], rates)
            through = g * a * before
            into_sum = tl.sum(g * b[None, :, :], axis=1)
            result = delta * into_sum
            if SKIP:
                result += tl.load(skip + c, mask=inside, other=0.0).to(tl.float32)[:, None] * upstream
            at = (batch * channels + c)[:, None] * length + t[None, :]
            mask = inside[:, None] & (t < length)[None, :]
            tl.store(to_x + at, result.to(to_x.dtype.element_ty), mask=mask)
            result = tl.sum(through * rates[:, :, None], axis=1) + u * into_sum
            tl.store(to_step + at, result.to(to_step.dtype.element_ty), mask=mask)
            sum_decay += tl.sum(through * delta[:, None, :], axis=2)
            sum_into += tl.sum(g * (delta * u)[:, None, :], axis=0)
            sum_out += tl.sum(now * upstream[:, None, :], axis=0)
            tl.store(to_decay + place, sum_decay, mask=modes)
            tl.store(carry + place, tl.sum(tl.where(first[:, None, :], g, 0.0), axis=2), mask=modes)
        tl.debug_barrier()
        groups = channels // repeat
        row = ((part * tl.num_programs(1) + batch) * groups + group) * states + n
        mask = real[:, None] & (t < length)[None, :]
        tl.store(to_into + row[:, None] * length + t[None, :], sum_into, mask=mask)
        tl.store(to_out + row[:, None] * length + t[None, :], sum_out, mask=mask)
