"""Files of ``torch.save``: read memory-mapped without running their code, written one tensor at a time."""

import collections
import io
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._utils import _rebuild_tensor_v2

from subquad.inference.checkpoint.pickle_work import refuse_endless_keys
from subquad.inference.checkpoint.saved_archive import refuse_compressed
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.errors import CheckpointError, CheckpointNotFound
from subquad.inference.unfinished import unfinished_file

_PART = re.compile(r"\.part(\d+)$")
_COPY_BLOCK = 1 << 22
_ALIGNMENT = 64
_PICKLE = "data.pkl"  # torch finds it whatever the case of its letters
_ZIP_START = b"PK\x03\x04"
_ZIP64_FROM = 1 << 31
_STORAGE_TYPES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}


@contextmanager
def read_torch_file(source: Path, scratch: Path) -> Iterator[dict[str, Any]]:
    """Gives the dictionary of a file with its tensors memory-mapped; only tensors and byte buffers are unpickled.

    Args:
      source: The file, or the first of its parts ``NAME.part0``, or ``NAME`` where only parts are there.
      scratch: Where parts are joined on disk; the joined file goes when the block ends.

    Raises:
      CheckpointNotFound: The file or a part of it is not there.
      CheckpointError: It is no file of tensors, or would run code; it is not read then.
    """
    with _whole_file(source, scratch) as file:
        _check_archive(file, source)
        try:
            with torch.serialization.safe_globals([io.BytesIO]):
                loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
            raise CheckpointError(
                f"{source}: holds more than tensors and is not read, since that would run its code. {reason.strip()}"
            ) from None
        except Exception as error:  # a damaged pickle can raise anything
            problem = f"is no file of torch tensors, or damaged: {str(error).partition('. ')[0]}"
            raise CheckpointError(f"{source}: {problem}{_parts_text(source)}") from None
        if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
            raise CheckpointError(
                f"{source}: holds a {type(loaded).__name__}; accepted: a dictionary of tensors by name"
            )
        yield loaded


def _check_archive(file: Path, source: Path) -> None:
    """Checks that a file begins and ends as ``torch.save`` writes it.

    Raises:
      CheckpointError: It does not, its end is missing, it holds compressed records or has keys that take forever.
    """
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                refuse_compressed(archive, str(source))
                for record in archive.infolist():
                    if record.filename.lower().endswith(_PICKLE):
                        data = io.BytesIO(archive.read(record))
                        refuse_endless_keys(data, str(source), size=record.file_size, spells_references=True)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged list of records can raise anything
            problem = f"is no file of torch tensors, or damaged: {error}"
            raise CheckpointError(f"{source}: {problem}{_parts_text(source)}") from None
        return
    with file.open("rb") as opened:
        start = opened.read(len(_ZIP_START))
    if start == _ZIP_START:
        size = file.stat().st_size
        problem = f"is truncated; it ends after {size:,} bytes, without the list of its tensors"
        raise CheckpointError(f"{source}: {problem}{_parts_text(source)}")
    raise CheckpointError(
        f"{source}: is no file of torch tensors; accepted: what torch.save writes since version 1.6, a ZIP archive"
    )


def _parts_text(source: Path) -> str:
    """Says how many parts were joined."""
    if source.is_file() and _PART.search(source.name) is None:
        return ""
    first = source if source.is_file() else source.with_name(source.name + ".part0")
    sizes = ", ".join(f"{part.stat().st_size:,}" for part in sorted_parts(first))
    return f"; its parts have {sizes} bytes, compare them with the original ones"


def write_torch_file(path: Path, content: Mapping[str, Any]) -> None:
    """Writes nested dictionaries of `TensorEntry` and byte buffers so that ``torch.load`` gives tensors back.

    Memory holds one tensor at a time. An entry that occurs twice is stored once, and read as two names of one storage.

    Source: the archive of ``torch.save`` as the PyTorch documentation describes it ("Serialized file format"): an
      uncompressed ZIP of ``data.pkl``, ``byteorder``, ``data/N`` for every storage, and ``version``.
    """
    pickled = io.BytesIO()
    pickler = _EntryPickler(pickled, protocol=2)
    pickler.dump(dict(content))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, "archive/data.pkl", pickled.getvalue())
        _write_record(archive, "archive/byteorder", b"little")
        for number, entry in enumerate(pickler.entries):
            _write_tensor(archive, f"archive/data/{number}", entry)
        _write_record(archive, "archive/version", b"3\n")


class _Storage:
    """Stands for the storage of an entry in a pickle."""

    def __init__(self, number: int, entry: TensorEntry) -> None:
        self.number, self.entry = number, entry


class _EntryPickler(pickle.Pickler):
    """Pickles entries as tensors whose storages are named by number; ``entries`` lists them in that order."""

    def __init__(self, file: io.BytesIO, *, protocol: int) -> None:
        super().__init__(file, protocol=protocol)
        self.entries: list[TensorEntry] = []
        self._storages: dict[int, _Storage] = {}

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, TensorEntry):
            return NotImplemented
        if id(obj) not in self._storages:
            self._storages[id(obj)] = _Storage(len(self.entries), obj)
            self.entries.append(obj)
        shape = tuple(obj.shape)
        stride = tuple(torch.empty(shape, device="meta").stride())
        arguments = (self._storages[id(obj)], 0, shape, stride, False, collections.OrderedDict())
        return _rebuild_tensor_v2, arguments

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        return ("storage", _STORAGE_TYPES[obj.entry.dtype], str(obj.number), "cpu", obj.entry.shape.numel())


def _write_record(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    with archive.open(_record(archive, name, len(data)), "w") as record:
        record.write(data)


def _write_tensor(archive: zipfile.ZipFile, name: str, entry: TensorEntry) -> None:
    info = _record(archive, name, entry.nbytes)
    tensor = entry.produce().detach().cpu().contiguous()
    assert (tensor.shape, tensor.dtype) == (entry.shape, entry.dtype), entry.name
    with archive.open(info, "w", force_zip64=entry.nbytes >= _ZIP64_FROM) as record:
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(data), _COPY_BLOCK):
            record.write(data[start : start + _COPY_BLOCK].tobytes())


def _record(archive: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    """Describes a record whose data begins at a multiple of 64 bytes, as mapped tensors want it."""
    info = zipfile.ZipInfo(name)
    info.file_size = size
    long_sizes = 20 if size >= _ZIP64_FROM else 0
    begin = archive.fp.tell() if archive.fp is not None else 0
    padding = -(begin + 30 + len(name) + long_sizes + 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return info


@contextmanager
def _whole_file(source: Path, scratch: Path) -> Iterator[Path]:
    """Gives the file itself, or its parts joined in a temporary file that is removed afterwards."""
    first = source if source.is_file() else source.with_name(source.name + ".part0")
    if not first.is_file():
        if source.is_dir():
            raise CheckpointNotFound(f"{source} is a folder; accepted: a .pt file or the first of its parts, .part0")
        also = "" if _PART.search(source.name) else f", nor does {first.name}"
        raise CheckpointNotFound(f"{source} does not exist{also}")
    match = _PART.search(first.name)
    if match is None:
        yield first
        return
    parts = sorted_parts(first)
    scratch.mkdir(parents=True, exist_ok=True)
    need, free = sum(part.stat().st_size for part in parts), shutil.disk_usage(scratch).free
    if need > free:
        raise CheckpointError(f"{source}: joining its parts takes {need:,} bytes, {scratch} has {free:,} free")
    with unfinished_file(scratch / "joined") as whole:
        with whole.open("wb") as joined:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined, _COPY_BLOCK)
        yield whole


def sorted_parts(first: Path) -> list[Path]:
    """Returns the parts ``NAME.part0``, ``NAME.part1``, … that belong to one of them, in order.

    Raises:
      CheckpointNotFound: One of them is missing.
      CheckpointError: There are two of one number.
    """
    stem = _PART.sub("", first.name)
    found: dict[int, Path] = {}
    for path in first.parent.iterdir():
        match = _PART.search(path.name)
        if match and path.name[: match.start()] == stem:
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise CheckpointError(f"{path} and {other.name} are both part {int(match[1])}; only one can be")
    for number in range(max(found) + 1):
        if number not in found:
            raise CheckpointNotFound(f"{first.parent / stem}.part{number} is missing; part {max(found)} is there")
    return [found[number] for number in sorted(found)]
