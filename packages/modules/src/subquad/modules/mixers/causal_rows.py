"""Causal attention of whole sequences, or from the last tokens of one to all of it, without a square of scores."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention
from torch.nn import functional

_QUERY_BLOCK = 256
_GRAIN = 512  # cuDNN plans every shape anew, for some 40 ms: it gets few shapes, multiples of this
_PIECE = 8192  # keys of the past go to cuDNN in pieces of this many times a power of two

Heads = Float[Tensor, "batch head length size"]
Keys = Float[Tensor, "batch head seen size"]
Sums = Float[Tensor, "batch head length 1"]


def attend_whole(
    q: Float[Tensor, "batch length head size"],
    k: Float[Tensor, "batch length head size"],
    v: Float[Tensor, "batch length head size"],
) -> Float[Tensor, "batch length head size"]:
    """Attends from every token to itself and the tokens before it."""
    queries, keys, values = (x.transpose(1, 2) for x in (q, k, v))
    if _has_sums(queries, keys, values):
        return _fused(queries, keys, values).transpose(1, 2)
    return functional.scaled_dot_product_attention(queries, keys, values, is_causal=True).transpose(1, 2)


def attend_last(
    q: Float[Tensor, "length head size"],
    keys: Float[Tensor, "seen head size"],
    values: Float[Tensor, "seen head size"],
) -> Float[Tensor, "length head size"]:
    """Attends from the last ``length`` of ``seen`` tokens; query ``t`` sees keys ``0`` to ``seen - length + t``.

    16-bit sequences on a CUDA device run through fused kernels, without a mask; everywhere else a mask is made for a
    few queries at a time. Nothing depends on what else runs.
    """
    length, seen = q.shape[0], keys.shape[0]
    if length == seen:
        return attend_whole(*(x.to(keys.dtype).unsqueeze(0) for x in (q, keys, values)))[0].to(q.dtype)
    queries, keys, values = (x.to(keys.dtype).transpose(0, 1).unsqueeze(0) for x in (q, keys, values))
    if length == 1:
        y = functional.scaled_dot_product_attention(queries, keys, values)
    elif _has_sums(queries, keys, values):
        y = _fused(queries, keys, values)
    else:
        y = _in_query_blocks(queries, keys, values)
    return y[0].transpose(0, 1).to(q.dtype)


def _in_query_blocks(queries: Heads, keys: Keys, values: Keys) -> Heads:
    """Makes the mask of a few queries at a time."""
    start = keys.shape[2] - queries.shape[2]
    blocks = []
    for block in queries.split(_QUERY_BLOCK, dim=2):
        seen = start + block.shape[2]
        mask = torch.ones(block.shape[2], seen, dtype=torch.bool, device=block.device).tril(start)
        blocks.append(
            functional.scaled_dot_product_attention(block, keys[:, :, :seen], values[:, :, :seen], attn_mask=mask)
        )
        start = seen
    return torch.cat(blocks, dim=2)


def _has_sums(queries: Heads, keys: Keys, values: Keys) -> bool:
    """Says whether a fused kernel without gradient takes these and can also return the sums of exponentials."""
    if not queries.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return can_use_flash_attention(SDPAParams(queries, keys, values, None, 0.0, False, False))


def _fused(queries: Heads, keys: Keys, values: Keys) -> Heads:
    """Attends causally, the last query to the last key.

    cuDNN's kernel is the fastest on Hopper GPUs, but is planned for each shape: it takes the queries up to a multiple
    of ``_GRAIN``. The flash kernel takes the rest, and everything where there is no cuDNN.
    """
    length, seen = queries.shape[2], keys.shape[2]
    first = length - length % _GRAIN if _cudnn_is_faster(queries, keys, values) else 0
    parts = []
    if first:
        start = seen - length
        parts.append(_planned(queries[:, :, :first], keys[:, :, : start + first], values[:, :, : start + first]))
    if first < length:
        parts.append(_flash(queries[:, :, first:], keys, values)[0])
    return parts[0] if len(parts) == 1 else torch.cat([x.transpose(1, 2) for x in parts], dim=1).transpose(1, 2)


def _cudnn_is_faster(queries: Heads, keys: Keys, values: Keys) -> bool:
    if torch.cuda.get_device_capability(queries.device) < (9, 0):
        return False
    return can_use_cudnn_attention(SDPAParams(queries, keys, values, None, 0.0, False, False))


def _flash(queries: Heads, keys: Keys, values: Keys, *, causal: bool = True) -> tuple[Heads, Sums]:
    """Returns attention and sums by the flash kernel, which aligns its causal mask with the last query and key."""
    y, sums, *_ = torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, values, 0.0, causal)
    return y, sums[:, :, : queries.shape[2]].unsqueeze(-1)


def _cudnn(queries: Heads, keys: Keys, values: Keys, *, causal: bool = False) -> tuple[Heads, Sums]:
    """Returns attention and the logarithm of each query's sum of exponentials by cuDNN."""
    y, sums, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(queries, keys, values, None, True, 0.0, causal)
    return y, sums.view(*queries.shape[:3], 1)


def _planned(queries: Heads, keys: Keys, values: Keys) -> Heads:
    """Attends by cuDNN: causally to the present, without a mask to pieces of the past, weighted by their sums."""
    start = keys.shape[2] - queries.shape[2]
    parts = [_cudnn(queries, keys[:, :, start:], values[:, :, start:], causal=True)]
    for first, last in _pieces(start):
        attend = _flash if (last - first) % _GRAIN else _cudnn
        parts.append(attend(queries, keys[:, :, first:last], values[:, :, first:last], causal=False))
    return parts[0][0] if len(parts) == 1 else _merged(parts)


def _merged(parts: list[tuple[Heads, Sums]]) -> Heads:
    """Weights attentions to different keys by their sums; products and their sum are float32 and rounded once."""
    weights = torch.softmax(torch.cat([sums for _, sums in parts], dim=-1), dim=-1)
    total = torch.mul(parts[0][0], weights[..., :1])
    for index, (y, _) in enumerate(parts[1:], start=1):
        total.addcmul_(y, weights[..., index : index + 1])
    return total.to(parts[0][0].dtype)


def _pieces(length: int) -> list[tuple[int, int]]:
    """Cuts the past into pieces of a few sizes: ``_PIECE`` times powers of two, and a rest."""
    pieces, first = [], 0
    while first < length:
        size = length - first
        if size >= _PIECE:
            size = _PIECE << ((size // _PIECE).bit_length() - 1)
        pieces.append((first, first + size))
        first += size
    return pieces
