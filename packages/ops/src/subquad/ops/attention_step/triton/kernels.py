"""The kernels of attention_step: every row's tokens are split over programs, whose results a second kernel joins."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.linear_step.triton.pieces import await_previous, await_then_start_next

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _rotated(x, cos, sin, lane, HALF: tl.constexpr):
    """Rotates one head ``[2 * HALF]`` at ``x``; lane j pairs with lane j + HALF."""
    own = tl.load(x + lane).to(tl.float32)
    other = tl.load(x + (lane + HALF) % (2 * HALF)).to(tl.float32)
    return own * cos + tl.where(lane < HALF, -other, other) * sin


@triton.jit
def _bring_tokens(
    keys, values, table, here, end, head, heads, page_size,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Asks for the keys and values of some tokens, which earlier steps have stored, before the new token is there."""
    if DEPENDENT:
        bytes_a_head: tl.constexpr = SIZE * keys.dtype.element_ty.primitive_bitwidth // 8
        LINES: tl.constexpr = (bytes_a_head + 127) // 128
        page = tl.load(table + here // page_size, mask=here < end, other=0).to(tl.int64)
        place = ((page * page_size + tl.where(here < end, here % page_size, 0)) * heads + head) * bytes_a_head
        address = place[:, None] + (tl.arange(0, LINES) * 128)[None, :]
        for pool in tl.static_range(2):
            start = keys.to(tl.int64) if pool == 0 else values.to(tl.int64)
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [start + address], dtype=tl.int32, is_pure=False,
                pack=1,
            )  # fmt: skip


@triton.jit
def attention_split_kernel(
    qkv, keys, values, pages, position, inv_freq, active, partial, weight, heads, page_size, page_stride,
    position_scale, softmax_scale,
    HALF: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, ACTIVE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Attends from one head of one row to the tokens of one split; the last split also takes and stores the new token.

    Writes the unnormalised sum of values ``[size]``, and the maximum and the sum of the weights.
    """
    SIZE: tl.constexpr = 2 * HALF
    head, split, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    lane = tl.arange(0, SIZE)
    frequency = tl.load(inv_freq + lane % HALF).to(tl.float32)
    time = tl.load(position + batch).to(tl.int32)
    write = True
    if ACTIVE:
        write = tl.load(active + batch) != 0
        time = tl.where(write, time, 0)
    table = pages + batch * page_stride
    held = tl.minimum(time, page_stride * page_size)
    count = tl.cdiv(tl.cdiv(held, SPLITS), BLOCK) * BLOCK
    begin = split * count
    end = tl.minimum(begin + count, held)
    token = tl.arange(0, BLOCK)
    _bring_tokens(keys, values, table, begin + token, end, head, heads, page_size, SIZE, BLOCK, DEPENDENT)
    await_previous(DEPENDENT)
    angle = time.to(tl.float32) / position_scale * frequency
    cos, sin = tl.cos(angle), tl.sin(angle)
    own = qkv + ((batch * heads + head) * 3).to(tl.int64) * SIZE
    element = keys.dtype.element_ty
    q = _rotated(own, cos, sin, lane, HALF).to(qkv.dtype.element_ty).to(element).to(tl.float32)
    q = q * (softmax_scale * _LOG2E)
    top = float("-inf")
    norm = 0.0
    total = tl.zeros([SIZE], tl.float32)
    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        here = start + token
        inside = here < end
        page = tl.load(table + here // page_size, mask=inside, other=0).to(tl.int64)
        place = ((page * page_size + here % page_size) * heads + head) * SIZE
        key = tl.load(keys + place[:, None] + lane[None, :], mask=inside[:, None], other=0.0)
        value = tl.load(values + place[:, None] + lane[None, :], mask=inside[:, None], other=0.0)
        score = tl.sum(key.to(tl.float32) * q[None, :], axis=1)
        score = tl.where(inside, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=0))
        fade = tl.exp2(top - higher)
        share = tl.exp2(score - higher)
        norm = norm * fade + tl.sum(share, axis=0)
        total = total * fade + tl.sum(value.to(tl.float32) * share[:, None], axis=0)
        top = higher
    if split == SPLITS - 1:
        new_key = _rotated(own + SIZE, cos, sin, lane, HALF).to(qkv.dtype.element_ty).to(element)
        new_value = tl.load(own + 2 * SIZE + lane).to(element)
        room = time < page_stride * page_size
        page = tl.load(table + time // page_size, mask=room, other=0).to(tl.int64)
        place = ((page * page_size + time % page_size) * heads + head) * SIZE + lane
        tl.store(keys + place, new_key, mask=room & write)
        tl.store(values + place, new_value, mask=room & write)
        score = tl.sum(new_key.to(tl.float32) * q, axis=0)
        higher = tl.maximum(top, score)
        fade = tl.exp2(top - higher)
        share = tl.exp2(score - higher)
        norm = norm * fade + share
        total = total * fade + new_value.to(tl.float32) * share
        top = higher
    result = (batch * heads + head) * SPLITS + split
    tl.store(partial + result * SIZE + lane, total)
    tl.store(weight + 2 * result, top)
    tl.store(weight + 2 * result + 1, norm)


@triton.jit
def attention_join_kernel(
    partial, weight, y, heads, HALF: tl.constexpr, SPLITS: tl.constexpr, DEPENDENT: tl.constexpr
):  # fmt: skip
    """Joins the splits of one head of one row."""
    SIZE: tl.constexpr = 2 * HALF
    result = tl.program_id(1) * heads + tl.program_id(0)
    lane = tl.arange(0, SIZE)
    split = tl.arange(0, SPLITS)
    await_then_start_next(DEPENDENT)
    top = tl.load(weight + 2 * (result * SPLITS + split))
    norm = tl.load(weight + 2 * (result * SPLITS + split) + 1)
    share = tl.exp2(top - tl.max(top, axis=0))
    total = tl.load(partial + (result * SPLITS + split)[:, None] * SIZE + lane[None, :])
    y_head = tl.sum(total * share[:, None], axis=0) / tl.sum(norm * share, axis=0)
    tl.store(y + result * SIZE + lane, y_head.to(y.dtype.element_ty))
