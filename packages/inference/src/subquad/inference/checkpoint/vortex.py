"""The published Vortex form of StripedHyena 2: one flat dictionary of tensors in a ``.pt`` file, whole or in parts."""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from subquad.inference.checkpoint.filter_forms import as_poles
from subquad.inference.checkpoint.fp8_projections import extra_states, is_scale
from subquad.inference.checkpoint.fp8_scales import Fp8Scales, scale_entries
from subquad.inference.checkpoint.native import compare_tensors, expected_tensors
from subquad.inference.checkpoint.report import SAME, MappedTensor, joined
from subquad.inference.checkpoint.source import EMBEDDING, TensorSource, entry_of, striped_hyena2_of
from subquad.inference.checkpoint.torch_file import read_torch_file, write_torch_file
from subquad.inference.errors import CheckpointTensorError
from subquad.lazy_config import Config

_IGNORED = re.compile(r"(^unembed\.weight|\.filter\.t|\._extra_state)$")
_STATE = re.compile(r"(blocks\.\d+\.projections)\._extra_state$")
_UNEMBEDDING = "unembed.weight"


@contextmanager
def open_vortex(path: Path, config: Config[Any], *, scratch: Path) -> Iterator[TensorSource]:
    """Opens a Vortex file, or its parts; see `read_torch_file`.

    Raises:
      CheckpointError: It cannot be read.
      CheckpointTensorError: A tensor is none, or FP8 scales are missing or would be lost.
    """
    config = copy.deepcopy(config)
    config.filter_parameters = "poles"
    with read_torch_file(path, scratch) as loaded:
        kept = {name: value for name, value in loaded.items() if not _IGNORED.search(name)}
        if EMBEDDING not in kept:
            raise CheckpointTensorError(f"{path}: tensor {EMBEDDING} is missing")
        entries = {name: entry_of(name, value, where=str(path)) for name, value in kept.items()}
        dtype = entries[EMBEDDING].dtype
        states = {match[1]: (name, value) for name, value in loaded.items() if (match := _STATE.fullmatch(name))}
        forms = expected_tensors(striped_hyena2_of(config, dtype, str(path)))
        scales, scale_rows = scale_entries(str(path), states, forms)
        entries |= scales
        compare_tensors(str(path), {e.name: (e.shape, e.dtype) for e in entries.values()}, forms)
        report = [MappedTensor(name, name, SAME) for name in kept] + scale_rows
        told = {row.source for row in report}
        report += [MappedTensor(n, None, _why_ignored(n, loaded)) for n in loaded if n not in told]
        yield TensorSource(str(path), config, dtype, entries, report)


def write_vortex(path: Path, source: TensorSource) -> list[MappedTensor]:
    """Writes a Vortex file; training parameters become poles and finished filters.

    Returns:
      What became of each tensor of the source.
    """
    source = as_poles(source)
    content: dict[str, Any] = {name: entry for name, entry in source.entries.items() if not is_scale(name)}
    report = [MappedTensor(name, name, SAME) for name in content]
    for projection, state in extra_states(source).items():
        content[f"{projection}._extra_state"] = state
        ends = (f"{projection}.fp8.{end}" for end in Fp8Scales._fields)
        report += [MappedTensor(end, f"{projection}._extra_state", "into scale_fwd") for end in ends]
    content[_UNEMBEDDING] = content[EMBEDDING]
    report.append(MappedTensor(EMBEDDING, _UNEMBEDDING, "same storage"))
    write_torch_file(path, content)
    return joined(source.report, report)


def _why_ignored(name: str, loaded: Mapping[str, Any]) -> str:
    if name.endswith("_extra_state"):
        return "left out: FP8 state of a layer that this network computes without"
    if name != _UNEMBEDDING:
        return "left out: made anew"
    given, embedding = loaded[name], loaded[EMBEDDING]
    same = isinstance(given, torch.Tensor) and given.dtype == embedding.dtype and torch.equal(given, embedding)
    return "left out: tied to the embedding" if same else "left out, although it differs from the embedding"
