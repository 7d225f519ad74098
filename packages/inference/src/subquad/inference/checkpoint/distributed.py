"""Reads a directory of ``torch.distributed.checkpoint`` without running code of its files.

``.metadata`` is a pickle that says which file holds which piece of a tensor, and where; it is unpickled into inert
records of torch's own metadata classes, all else is refused. Each piece is an archive of ``torch.save`` inside a
``.distcp`` file and is read when its tensor's turn comes, so memory holds one tensor at a time.

Source: the documentation of ``torch.distributed.checkpoint`` (metadata classes, ``FileSystemWriter``).
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subquad.inference.checkpoint.restricted_pickle import InertRecord, load_inert, shown, text_of
from subquad.inference.checkpoint.saved_archive import refuse_compressed
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.errors import CheckpointError, CheckpointNotFound

METADATA = ".metadata"
_CLASSES = "torch.distributed.checkpoint.metadata"
_ACCEPTED = frozenset(
    {
        *(
            (_CLASSES, name)
            for name in (
                "Metadata",
                "MetadataIndex",
                "TensorStorageMetadata",
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "TensorProperties",
                "StorageMeta",
                "_MEM_FORMAT_ENCODING",
            )
        ),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"),
        ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"),
        ("torch.serialization", "_get_layout"),
    }
)


@dataclass(frozen=True)
class Piece:
    """A part of a tensor, or an object, inside a file.

    Attributes:
      file: The file.
      start: First byte.
      length: Bytes.
      offset: Where the part lies in the tensor; empty for an object.
    """

    file: Path
    start: int
    length: int
    offset: tuple[int, ...]

    def read(self) -> bytes:
        """Returns its bytes.

        Raises:
          CheckpointError: The file ends before it.
        """
        with self.file.open("rb") as file:
            file.seek(self.start)
            data = file.read(self.length)
        if len(data) != self.length:
            raise CheckpointError(f"{self.file}: ends before byte {self.start + self.length}; it is truncated")
        return data


@dataclass(frozen=True)
class DistributedCheckpoint:
    """The contents of a directory.

    Attributes:
      tensors: Entries by name.
      objects: Pieces of what is no tensor, by name.
    """

    tensors: dict[str, TensorEntry]
    objects: dict[str, Piece]


def read_distributed(folder: Path) -> DistributedCheckpoint:
    """Reads the metadata of a directory and finds every piece; weights are read later, one tensor at a time.

    Raises:
      CheckpointNotFound: ``.metadata`` or a file that it names is missing.
      CheckpointError: ``.metadata`` is damaged or holds more than torch's metadata, or a tensor is incomplete.
    """
    path = folder / METADATA
    if not path.is_file():
        raise CheckpointNotFound(f"{path} is missing; a distributed checkpoint has {METADATA} and .distcp files")
    loaded = load_inert(path.read_bytes(), str(path), records=_ACCEPTED)
    described, places = _field(path, loaded, "state_dict_metadata"), _field(path, loaded, "storage_data")
    try:
        return _described(path, described, places)
    except (AttributeError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is damaged: {type(error).__name__}: {text_of(error)}") from None


def _described(path: Path, described: dict[Any, Any], places: dict[Any, Any]) -> DistributedCheckpoint:
    pieces: dict[str, list[Piece]] = {}
    for index, info in places.items():
        if not isinstance(index.fqn, str):
            raise TypeError(f"a piece belongs to {shown(index.fqn)}; accepted: a name")
        pieces.setdefault(index.fqn, []).append(_piece(path, path.parent, index, info))
    tensors, objects = {}, {}
    for name, record in described.items():
        found = pieces.get(name, [])
        if type(record).__name__ == "TensorStorageMetadata":
            tensors[name] = _tensor(path, name, record, found)
        elif found:
            objects[name] = found[0]
    return DistributedCheckpoint(tensors, objects)


def _field(path: Path, loaded: Any, name: str) -> dict[Any, Any]:
    value = getattr(loaded, name, None)
    if not isinstance(loaded, InertRecord) or not isinstance(value, dict):
        raise CheckpointError(f"{path}: has no {name}; it is no metadata of a distributed checkpoint")
    return value


def _piece(path: Path, folder: Path, index: Any, info: Any) -> Piece:
    name = info.relative_path
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise CheckpointError(f"{path}: names the file {shown(name)}; accepted: names without a folder")
    file = folder / name
    if getattr(info, "transform_descriptors", None):
        stored = shown(info.transform_descriptors)
        raise CheckpointError(f"{path}: {index.fqn} is stored as {stored}; accepted: plain pieces")
    if not file.is_file():
        raise CheckpointNotFound(f"{file} is missing; {METADATA} says that it holds {index.fqn}")
    if info.offset < 0 or info.offset + info.length > file.stat().st_size:
        raise CheckpointError(
            f"{file} has {file.stat().st_size:,} bytes, {index.fqn} ends at {info.offset + info.length:,}; "
            "the file is truncated"
        )
    return Piece(file, info.offset, info.length, tuple(getattr(index, "offset", None) or ()))


def _tensor(path: Path, name: str, record: Any, pieces: list[Piece]) -> TensorEntry:
    shape = torch.Size(record.size)
    properties = record.properties
    dtype = properties.state[0] if isinstance(properties.state, tuple) else getattr(properties, "dtype", None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"{path}: {name} has no type")
    sizes = {tuple(chunk.offsets): tuple(chunk.sizes) for chunk in record.chunks}
    unique = {piece.offset or (0,) * len(shape): piece for piece in pieces}
    covered = sum(torch.Size(size).numel() for size in sizes.values())
    if set(unique) != set(sizes) or covered != shape.numel():
        raise CheckpointError(f"{path}: {name} has {len(unique)} of {len(sizes)} pieces; the checkpoint is incomplete")
    if len(sizes) > 1 and not _apart(shape, sizes):
        raise CheckpointError(f"{path}: pieces of {name} overlap or reach beyond {list(shape)}")
    return TensorEntry(name, shape, dtype, partial(_assembled, name, shape, dtype, unique, sizes))


def _apart(shape: torch.Size, sizes: Mapping[tuple[int, ...], tuple[int, ...]]) -> bool:
    """Says whether pieces lie inside a tensor and none upon another; those of as many numbers then fill it."""
    starts, ends = torch.tensor(list(sizes)), torch.tensor(list(sizes)) + torch.tensor(list(sizes.values()))
    if starts.shape[1] != len(shape) or bool((starts < 0).any() | (ends > torch.tensor(shape)).any()):
        return False
    return all(
        int(((start < ends) & (starts < end)).all(dim=1).sum()) <= 1 for start, end in zip(starts, ends, strict=True)
    )


def _assembled(
    name: str,
    shape: torch.Size,
    dtype: torch.dtype,
    pieces: dict[tuple[int, ...], Piece],
    sizes: dict[tuple[int, ...], tuple[int, ...]],
) -> Tensor:
    if len(pieces) == 1:
        return _loaded(name, shape, dtype, *pieces.values())
    whole = torch.empty(shape, dtype=dtype)
    for offset, piece in pieces.items():
        part = _loaded(name, torch.Size(sizes[offset]), dtype, piece)
        place = whole[tuple(slice(start, start + size) for start, size in zip(offset, part.shape, strict=True))]
        if place.shape != part.shape:
            raise CheckpointError(f"{piece.file}: the piece of {name} at {list(offset)} reaches beyond {list(shape)}")
        place.copy_(part)
    return whole


def _loaded(name: str, shape: torch.Size, dtype: torch.dtype, piece: Piece) -> Tensor:
    try:
        data = io.BytesIO(piece.read())
        if zipfile.is_zipfile(data):
            refuse_compressed(zipfile.ZipFile(data), str(piece.file))
        data.seek(0)
        tensor = torch.load(data, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{piece.file}: the piece of {name} at byte {piece.start} is no tensor: {str(error).partition('. ')[0]}"
        ) from None
    if not isinstance(tensor, Tensor) or (tensor.shape, tensor.dtype) != (shape, dtype):
        raise CheckpointError(f"{piece.file}: the piece of {name} at byte {piece.start} is not {list(shape)} {dtype}")
    return tensor
