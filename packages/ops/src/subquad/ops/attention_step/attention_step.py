"""One decode step of rotary attention over keys and values that lie in pages: the public function."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._rows_on_host import each_row, host_reads_freely
from subquad.ops.attention_step.heads_of_rows import HeadsOfRows
from subquad.ops.axes import Active, Frequencies, HeadStep, PageNumbers, Position, ProjectedHeads, Slots
from subquad.ops.errors import ArgumentOutOfRange, ShapeMismatch
from subquad.ops.linear_step.linear_step import OTHER_DTYPE

PAGE_MULTIPLE = 32  # a kernel that takes tokens by the tile wants pages of whole tiles
UNEVEN_PAGES = "pages that cut tiles"  # an option of calls whose pages are not
GAPS = "keys or values with gaps"  # an option of calls that no kernel takes


def attention_step(
    qkv: ProjectedHeads,
    keys: Slots,
    values: Slots,
    pages: PageNumbers,
    position: Position,
    inv_freq: Frequencies,
    *,
    page_size: int,
    position_scale: float = 1.0,
    active: Active | None = None,
    backend: str = "auto",
) -> HeadStep:
    """Rotates query and key of one token a row, stores its key and value, and attends to all tokens of the row so far.

    ``y = sum(softmax(rope(q) . key[s] / sqrt(size) for s <= position)[s] * value[s])``; token s of row b lies in slot
    ``pages[b, s // page_size] * page_size + s % page_size``. Each row is computed from itself alone.

    Args:
      qkv: ``[batch, head, 3, size]``, not yet rotated.
      keys: ``[slot, head, size]``, changed in place: rotated keys.
      values: ``[slot, head, size]``, changed in place.
      pages: ``[batch, page]`` integers; rows hold different pages. Entries behind those that a row's tokens need are
        not read.
      position: ``[batch]`` integers, the tokens that each row has already seen; not changed.
      inv_freq: ``[size / 2]``; pair ``(j, j + size / 2)`` turns by ``position / position_scale * inv_freq[j]``.
      page_size: tokens in a page.
      position_scale: positions are divided by it.
      active: ``[batch]``; a row that is False stores nothing, and its output means nothing.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[batch, head, size]`` in the dtype of qkv, summed in float32 (float64 for float64). Not differentiable. A row
      that is past its last page stores nothing: whoever counts the tokens keeps to the room.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with qkv; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    check(
        qkv,
        keys,
        values,
        pages,
        position,
        inv_freq,
        page_size=page_size,
        position_scale=position_scale,
        active=active,
    )
    call = describe(
        qkv,
        keys,
        values,
        pages,
        position,
        inv_freq,
        page_size=page_size,
        position_scale=position_scale,
        active=active,
    )
    chosen, _ = dispatch.choose(call, backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(
            qkv,
            keys,
            values,
            pages,
            position,
            inv_freq,
            page_size=page_size,
            position_scale=position_scale,
            active=active,
        )


def check(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    *,
    page_size: int,
    position_scale: float = 1.0,
    active: Tensor | None = None,
) -> None:
    """Raises unless the arguments of a call fit each other."""
    _checks.floating("qkv", qkv)
    if qkv.dim() != 4 or qkv.shape[2] != 3 or qkv.shape[3] % 2:
        raise ShapeMismatch(f"qkv has shape {tuple(qkv.shape)}; accepted: (batch, head, 3, even size)")
    batch, heads, _, size = qkv.shape
    for name, value in (("keys", keys), ("values", values)):
        _checks.floating("keys", keys)
        _checks.kept(name, value, (keys.shape[0] if keys.dim() else 0, heads, size), qkv, "qkv")
    _checks.shaped("inv_freq", inv_freq, (size // 2,), qkv, "qkv", optional=False)
    _checks.row_values("position", position, batch, qkv, (torch.int64, torch.int32), optional=False)
    _checks.row_values("active", active, batch, qkv, (torch.bool,))
    _checks.integral("pages", pages)
    _checks.same_device("pages", pages, "qkv", qkv)
    if pages.dim() != 2 or pages.shape[0] != batch or pages.shape[1] < 1:
        raise ShapeMismatch(f"pages has shape {tuple(pages.shape)}; qkv {tuple(qkv.shape)} needs ({batch}, 1 or more)")
    if page_size < 1 or position_scale <= 0:
        raise ArgumentOutOfRange(f"page_size is {page_size}, position_scale {position_scale}; both must be positive")


def describe(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    *,
    page_size: int,
    position_scale: float = 1.0,
    active: Tensor | None = None,
) -> dispatch.Call:
    """Describes a call to the dispatcher; ``taps`` is the size of a head."""
    options = {
        "active": active is not None,
        OTHER_DTYPE: not qkv.dtype == keys.dtype == values.dtype,
        GAPS: not (keys.is_contiguous() and values.is_contiguous()),
        UNEVEN_PAGES: page_size % PAGE_MULTIPLE != 0,
    }
    return dispatch.Call(
        operator="attention_step",
        dtype=qkv.dtype,
        device=qkv.device.type,
        index=qkv.get_device(),
        batch=qkv.shape[0],
        channels=qkv.shape[1] * qkv.shape[3],
        length=1,
        taps=qkv.shape[3],
        options=frozenset(name for name, given in options.items() if given),
        capturing=dispatch.capturing(qkv),
    )


@without_autocast
def compute_in_torch(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    *,
    page_size: int,
    position_scale: float,
    active: Tensor | None,
) -> Tensor:
    """Computes the checked call in plain torch; stores key and value in place and returns y."""
    run = prepare_in_torch(
        qkv,
        keys,
        values,
        pages,
        position,
        inv_freq,
        page_size=page_size,
        position_scale=position_scale,
        active=active,
    )
    return run(qkv)


def prepare_in_torch(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    *,
    page_size: int,
    position_scale: float,
    active: Tensor | None,
) -> Callable[[Tensor], Tensor]:
    """Returns the checked call as a function of qkv."""
    if host_reads_freely(qkv):
        rows = HeadsOfRows(keys, values, pages, inv_freq, page_size=page_size, position_scale=position_scale)
        return each_row(rows, position, active, (qkv.shape[1], qkv.shape[3]))
    return partial(
        _on_all_rows,
        keys=keys,
        values=values,
        pages=pages,
        position=position,
        inv_freq=inv_freq,
        page_size=page_size,
        position_scale=position_scale,
        active=active,
    )


def _on_all_rows(
    qkv: Tensor,
    *,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    page_size: int,
    position_scale: float,
    active: Tensor | None,
) -> Tensor:
    q, k = _rotated(qkv[:, :, :2], position, inv_freq, position_scale).unbind(2)
    q, k, v = q.to(keys.dtype), k.to(keys.dtype), qkv[:, :, 2].to(values.dtype)
    last = (position // page_size).clamp(max=pages.shape[1] - 1)
    slot = pages.gather(1, last[:, None])[:, 0].long() * page_size + position % page_size
    stored = position < pages.shape[1] * page_size
    stored = stored if active is None else stored & active
    _store(k, keys, slot, stored)
    _store(v, values, slot, stored)
    time = torch.arange(pages.shape[1] * page_size, device=qkv.device)
    slots = pages.long()[:, time // page_size] * page_size + time % page_size
    seen = (time <= position[:, None])[:, None, None, :]
    past_keys, past_values = (x[slots].transpose(1, 2) for x in (keys, values))
    y = functional.scaled_dot_product_attention(q[:, :, None], past_keys, past_values, attn_mask=seen)
    return y[:, :, 0].to(qkv.dtype)


def _rotated(x: Tensor, position: Tensor, inv_freq: Tensor, position_scale: float) -> Tensor:
    """Rotates ``[batch, head, stream, size]``, in float32 at least."""
    wide = _checks.accumulation_dtype(x)
    angle = (position.to(inv_freq.dtype) / position_scale)[:, None] * inv_freq
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    low, high = x.to(wide).chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, low * sin + high * cos], dim=-1).to(x.dtype)


def _store(x: Tensor, pool: Tensor, slot: Tensor, stored: Tensor) -> None:
    """Writes each row's ``[head, size]`` into its slot; a row that is not to be stored repeats one that is."""
    first = stored.int().argmax()
    row = torch.where(stored, torch.arange(len(slot), device=slot.device), first)
    slot = slot[row]
    pool[slot] = torch.where(stored[row][:, None, None], x[row], pool[slot])
