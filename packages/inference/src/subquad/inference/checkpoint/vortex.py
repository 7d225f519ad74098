"""The published Vortex form of StripedHyena 2: one flat dictionary of tensors in a ``.pt`` file, whole or in parts."""

import io
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subquad.inference.checkpoint.files import check_new_file, replaced_file
from subquad.inference.checkpoint.native import (
    build,
    check_tensors,
    expected_tensors,
    from_text,
    read_tensors,
    write_checkpoint,
)
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.checkpoint.summary import read_summary
from subquad.inference.errors import CheckpointError, CheckpointNotFound, CheckpointTensorError
from subquad.lazy_config import Config

_PART = re.compile(r"\.part(\d+)$")
_IGNORED = re.compile(r"(^unembed\.weight|\.filter\.t|\._extra_state)$")


class MappedTensor(NamedTuple):
    """One line of a conversion's report.

    Attributes:
      source: Name of the tensor that was read.
      target: Name of the tensor that was written, or None.
      how: ``"same"``, or what was done to it.
    """

    source: str
    target: str | None
    how: str


def import_vortex(
    source: str | Path,
    target: str | Path,
    config: Config[Any],
    *,
    metadata: Mapping[str, Any] | None = None,
    drop_fp8_scales: bool = False,
    overwrite: bool = False,
) -> list[MappedTensor]:
    """Makes a native checkpoint of a Vortex file. Every tensor is memory-mapped and written in turn.

    Args:
      source: The ``.pt`` file, or the first of its parts, ``NAME.pt.part0``.
      target: The directory to make.
      config: The network; see `vortex_config`.
      metadata: More fields for the metadata, e.g. ``max_sequence_tokens``.
      drop_fp8_scales: Go on where the file holds scales of FP8 projections; they are left out.
      overwrite: Replace an existing checkpoint.

    Returns:
      What became of each tensor.

    Raises:
      CheckpointNotFound: The file or a part of it is not there.
      CheckpointError: It is no file of tensors, or would run code; it is not read then.
      CheckpointTensorError: A tensor does not fit the config, or FP8 scales would be lost.
    """
    with _loaded(Path(source), Path(target).absolute().parent) as loaded:
        kept = {name: value for name, value in loaded.items() if not _IGNORED.search(name)}
        scales = [name for name, value in loaded.items() if name.endswith("._extra_state") and _holds_data(value)]
        if scales and not drop_fp8_scales:
            raise CheckpointTensorError(
                f"{source}: {scales[0]} and {len(scales) - 1} more hold scales of FP8 projections, which this version "
                "does not read; drop_fp8_scales goes on without (no loss for 7b; 1b, 20b and 40b predict worse)"
            )
        entries = [_checked_entry(str(source), name, value) for name, value in kept.items()]
        embedding = kept.get("embedding_layer.weight")
        if embedding is None:
            raise CheckpointTensorError(f"{source}: tensor embedding_layer.weight is missing")
        facts = {
            "dtype": str(embedding.dtype).removeprefix("torch."),
            "parameters": sum(v.numel() for n, v in kept.items() if not n.endswith("inv_freq")),
            "filter_parameters": "poles",
        }
        write_checkpoint(target, config, entries, facts, metadata=metadata, overwrite=overwrite)
        report = [MappedTensor(name, name, "same") for name in kept]
        return report + [MappedTensor(n, None, _why_ignored(n, loaded)) for n in loaded if n not in kept]


def export_vortex(source: str | Path, target: str | Path, *, overwrite: bool = False) -> list[MappedTensor]:
    """Makes a Vortex ``.pt`` file of a native checkpoint; training parameters become poles and finished filters.

    Returns:
      What became of each tensor.

    Raises:
      CheckpointExists: ``target`` exists and may not be replaced.
      CheckpointError: The source is no good checkpoint; see `load_checkpoint`.
    """
    target = Path(target)
    check_new_file(target, overwrite=overwrite)
    summary = read_summary(Path(source))
    config = from_text(summary.config_text, str(summary.path))
    dtype = getattr(torch, summary.metadata["dtype"])
    location = check_tensors(summary, expected_tensors(build(config, "meta", dtype, summary.path)))
    summary.verify_hashes()
    tensors = dict(read_tensors(summary, location))
    written: dict[str, Tensor] = {}
    report: list[MappedTensor] = []
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "p" and stem.endswith("filter"):
            target_name, how = f"{stem}.log_poles", "-exp(p) * exp(gamma)"
            tensor = (-torch.exp(tensor) * torch.exp(tensors[f"{stem}.gamma"]))[..., None]
        elif leaf in ("gamma", "decay") and stem.endswith("filter"):
            report.append(MappedTensor(name, None, "part of log_poles" if leaf == "gamma" else "part of filter.h"))
            continue
        elif leaf == "h" and f"{stem}.decay" in tensors:
            target_name, how = name, "h * decay"
            tensor = (tensor * tensors[f"{stem}.decay"][:, None, :]).to(dtype)
        else:
            target_name, how = name, "same"
        written[target_name] = tensor
        report.append(MappedTensor(name, target_name, how))
    written["unembed.weight"] = written["embedding_layer.weight"]
    report.append(MappedTensor("embedding_layer.weight", "unembed.weight", "same storage"))
    with replaced_file(target) as partial:
        torch.save(written, partial)
    return report


def _checked_entry(source: str, name: str, value: object) -> TensorEntry:
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
        what = f"a {value.layout} tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise CheckpointTensorError(f"{source}: {name} is {what}; accepted: dense floating-point tensors")
    return TensorEntry(name, value.shape, value.dtype, lambda: value)


def _holds_data(value: object) -> bool:
    if isinstance(value, io.BytesIO):
        return bool(value.getbuffer().nbytes)
    return value is not None and not (isinstance(value, Tensor) and not value.numel())


def _why_ignored(name: str, loaded: Mapping[str, Any]) -> str:
    if name != "unembed.weight":
        return "left out: made anew" if name.endswith(".t") else "left out: FP8 scales"
    same = torch.equal(loaded[name], loaded["embedding_layer.weight"])
    return "left out: tied to the embedding" if same else "left out, although it differs from the embedding"


@contextmanager
def _loaded(source: Path, scratch: Path) -> Iterator[dict[str, Any]]:
    """Reads the dictionary with its tensors memory-mapped; only tensors and byte buffers are unpickled."""
    with _whole_file(source, scratch) as file:
        try:
            with torch.serialization.safe_globals([io.BytesIO]):
                loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
            raise CheckpointError(
                f"{source}: holds more than tensors and is not read, since that would run its code. {reason.strip()}"
            ) from None
        except (RuntimeError, EOFError, ValueError) as error:
            raise CheckpointError(f"{source}: is no file of torch tensors: {str(error).partition('. ')[0]}") from None
        if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
            raise CheckpointError(
                f"{source}: holds a {type(loaded).__name__}; accepted: a dictionary of tensors by name"
            )
        yield loaded


@contextmanager
def _whole_file(source: Path, scratch: Path) -> Iterator[Path]:
    """Gives the file itself, or its parts joined in a temporary file that is removed afterwards."""
    first = source if source.is_file() else source.with_name(source.name + ".part0")
    if not first.is_file():
        raise CheckpointNotFound(f"{source} does not exist, nor does {first.name}")
    match = _PART.search(first.name)
    if match is None:
        yield first
        return
    parts = sorted_parts(first)
    scratch.mkdir(parents=True, exist_ok=True)
    need, free = sum(part.stat().st_size for part in parts), shutil.disk_usage(scratch).free
    if need > free:
        raise CheckpointError(f"{source}: joining its parts takes {need:,} bytes, {scratch} has {free:,} free")
    handle, name = tempfile.mkstemp(prefix=".joined.", suffix=".partial", dir=scratch)
    try:
        with os.fdopen(handle, "wb") as joined:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined, 1 << 22)
        yield Path(name)
    finally:
        Path(name).unlink()


def sorted_parts(first: Path) -> list[Path]:
    """Returns the parts ``NAME.part0``, ``NAME.part1``, … that belong to one of them, in order.

    Raises:
      CheckpointNotFound: One of them is missing.
    """
    stem = _PART.sub("", first.name)
    found: dict[int, Path] = {}
    for path in first.parent.iterdir():
        match = _PART.search(path.name)
        if match and path.name[: match.start()] == stem:
            found[int(match[1])] = path
    for number in range(max(found) + 1):
        if number not in found:
            raise CheckpointNotFound(f"{first.parent / stem}.part{number} is missing; part {max(found)} is there")
    return [found[number] for number in sorted(found)]
