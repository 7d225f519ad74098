"""Writes safetensors one tensor at a time, so that memory holds one tensor and not the file."""

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

CODES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
DTYPE_OF_CODE = {
    **{code: dtype for dtype, code in CODES.items()},
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class TensorEntry(NamedTuple):
    """A tensor to be written.

    Attributes:
      name: Its name on disk.
      shape: Its shape there.
      dtype: Its type there, one of ``CODES``.
      produce: Makes it when its turn comes.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    produce: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.shape.numel() * self.dtype.itemsize


def write_safetensors(path: Path, entries: Sequence[TensorEntry]) -> None:
    """Writes a safetensors file.

    Source: the format as its authors describe it, https://github.com/huggingface/safetensors: eight bytes of length, a
    JSON header with type, shape and place of every tensor, then the data, little-endian.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for entry in entries:
        ends = [place, place + entry.nbytes]
        header[entry.name] = {"dtype": CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": ends}
        place = ends[1]
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            tensor = entry.produce().detach().cpu().contiguous()
            assert (tensor.shape, tensor.dtype) == (entry.shape, entry.dtype), entry.name
            tensor.reshape(-1).view(torch.uint8).numpy().tofile(file)
