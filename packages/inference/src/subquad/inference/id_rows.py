"""Tokens in Python lists, as a tensor."""

from array import array
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def id_rows(
    sequences: Sequence[Sequence[int]], *, width: int | None = None, pad_id: int = 0, device: torch.device
) -> Int[Tensor, "batch length"]:
    """Returns int64 rows of tokens, shorter ones padded on the right; bytes ten times as fast as ``torch.tensor``.

    Args:
      sequences: One or more rows of integers.
      width: Length of the rows; default: that of the longest.
      pad_id: Fills the places behind shorter rows.
      device: Where the result lies.
    """
    width = max(map(len, sequences)) if width is None else width
    padded = [list(row) + [pad_id] * (width - len(row)) for row in sequences]
    rows = _flat(padded) if width else torch.zeros(0, dtype=torch.int64)
    if device.type == "cuda":  # from pinned memory nothing waits for the device
        rows = rows.pin_memory()
    return rows.view(len(sequences), width).to(device, non_blocking=True, copy=True)


def _flat(rows: list[list[int]]) -> Int[Tensor, " token"]:
    """Returns the tokens of all rows; those of texts are bytes, which Python packs fastest."""
    try:
        return torch.frombuffer(bytearray().join(map(bytes, rows)), dtype=torch.uint8).long()
    except ValueError:  # an id that is no byte
        flat = array("q")
        for row in rows:
            flat.extend(array("q", row))
        return torch.frombuffer(flat, dtype=torch.int64)
