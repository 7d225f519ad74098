"""Small archives of ``torch.save`` held in memory, read to plain data and tensors without running their code."""

import io
import math
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from subquad.inference.checkpoint.restricted_pickle import load_inert, shown
from subquad.inference.errors import CheckpointError

_STORAGES: dict[tuple[str, str], Any] = {
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
}


def load_archive(data: bytes, where: str, *, records: Callable[[str, str], bool]) -> Any:
    """Reads an archive.

    Args:
      data: The whole of it.
      where: What errors call it.
      records: Says of a module and a class whether its objects may occur; they come back as `InertRecord`.

    Raises:
      CheckpointError: It is damaged, or would run code.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        refuse_compressed(archive, where)
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"{where}: is no archive of torch.save: it has {len(pickles)} records data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        content = archive.read(pickles[0])
    except CheckpointError:
        raise
    except Exception as error:  # a damaged list of records can raise anything
        raise CheckpointError(f"{where}: is no archive of torch.save: {error}") from None

    def storage(reference: Any) -> tuple[bytes, torch.dtype]:
        kind, dtype, key, _, _ = reference
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise CheckpointError(f"{where}: refers to {shown(reference)}; accepted: storages")
        return archive.read(f"{folder}data/{key}"), dtype

    functions: dict[tuple[str, str], Any] = {
        **_STORAGES,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
        ("_io", "BytesIO"): io.BytesIO,
    }
    return load_inert(content, where, records=records, functions=functions, storages=storage)


def refuse_compressed(archive: zipfile.ZipFile, where: str) -> None:
    """Refuses records that may be a thousand times as long as their file; ``torch.save`` compresses none.

    Raises:
      CheckpointError: There is one.
    """
    for record in archive.infolist():
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            problem = f"the record {record.filename[:80]!r} is compressed, as torch.save never does"
            raise CheckpointError(f"{where}: {problem}, and is not read")


def _rebuilt(storage: tuple[bytes, torch.dtype], offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    data, dtype = storage
    size, stride = tuple(size), tuple(stride)
    if not math.prod(size):
        return torch.empty(size, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min(size + stride + (offset,)) < 0 or last >= len(flat) or math.prod(size) > len(flat):
        raise ValueError("a tensor reaches beyond its storage")
    return flat.as_strided(size, stride, offset).clone()
