"""The training form of Evo 2 as Savanna writes it: ``{"module": {"sequential.0.word_embeddings.weight": …}}``."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subquad.inference.checkpoint.filter_forms import as_p_gamma
from subquad.inference.checkpoint.fp8_projections import extra_states, is_scale
from subquad.inference.checkpoint.layer_names import (
    FILTERS,
    FREQUENCIES,
    HYENA,
    NORMS,
    ForeignName,
    read_foreign,
    split_layer,
)
from subquad.inference.checkpoint.report import SAME, MappedTensor, joined
from subquad.inference.checkpoint.source import EMBEDDING, TensorSource, made_entry
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.checkpoint.torch_file import read_torch_file, write_torch_file
from subquad.inference.errors import CheckpointError, CheckpointTensorError
from subquad.lazy_config import Config
from subquad.modules import STRIPED_HYENA2_PRESETS, StripedHyena2

_WORDS = "sequential.0.word_embeddings.weight"
_FINAL_NORM = re.compile(r"sequential\.(\d+)\.norm\.weight$")
_MLP = {"mlp.l1.weight": "mlp.w1.weight", "mlp.l2.weight": "mlp.w2.weight", "mlp.l3.weight": "mlp.w3.weight"}
_ATTENTION = {
    "inner_mha_cls.Wqkv.weight": "mixer.dense_projection.weight",
    "inner_mha_cls.out_proj.weight": "mixer.dense.weight",
    "inner_mha_cls.out_proj.bias": "mixer.dense.bias",
}
_SCALES_OF = re.compile(r"sequential\.(\d+)\.mixer\.dense_projection\._extra_state$")


@contextmanager
def open_savanna(path: Path, config: Config[Any], *, scratch: Path) -> Iterator[TensorSource]:
    """Opens a Savanna file; see `read_torch_file` for how, and `read_foreign` for what can be wrong with it."""
    with read_torch_file(path, scratch) as loaded:
        module = loaded.get("module")
        if not isinstance(module, dict):
            raise CheckpointError(f"{path}: has no dictionary 'module'; it is no Savanna checkpoint")
        tensors = {str(name).removeprefix("module."): value for name, value in module.items()}
        layers = len(config.pattern)
        norm = _final_norm(str(path), tensors, layers)

        yield read_foreign(
            str(path),
            tensors,
            config,
            embedding=_WORDS,
            naming=partial(_foreign, norm=norm),
            states=_fp8_states(tensors),
        )


def write_savanna(path: Path, source: TensorSource) -> list[MappedTensor]:
    """Writes a Savanna file; filters that are poles become training parameters that give the same filter.

    Returns:
      What became of each tensor of the source.
    """
    source = as_p_gamma(source)
    network = source.network
    norm = final_norm_index(network)
    module: dict[str, Any] = {}
    report = []
    states = extra_states(source)
    for name, entry in source.entries.items():
        if is_scale(name):
            projection = name.rpartition(".fp8.")[0]
            foreign = _name_of(network, f"{projection}.weight", norm).removesuffix("weight") + "_extra_state"
            module[foreign] = states[projection]
            report.append(MappedTensor(name, foreign, "into scale_fwd"))
            continue
        if name.endswith(FREQUENCIES):
            report.append(MappedTensor(name, None, "left out: computed from the rotary base"))
            continue
        foreign = _name_of(network, name, norm)
        how = SAME
        if foreign.endswith(("hyena_proj_conv.short_conv_weight", "filter.h")):
            rows, _, taps = entry.shape
            entry = made_entry(name, (torch.Size((rows, taps)), entry.dtype), _flat(entry))
            how = "middle axis removed"
        module[foreign] = entry
        report.append(MappedTensor(name, foreign, how))
    write_torch_file(path, {"module": module})
    return joined(source.report, report)


def final_norm_index(network: StripedHyena2) -> int:
    """Returns the number of the final norm among Savanna's modules: layers + 3, and layers + 2 in the 20b model."""
    odd = STRIPED_HYENA2_PRESETS["20b"]
    is_odd = (network.pattern, network.hidden_size) == (odd.pattern, odd.hidden_size)
    return len(network.pattern) + (2 if is_odd else 3)


def _final_norm(where: str, tensors: Mapping[str, Any], layers: int) -> int:
    """Returns the number of the final norm in a file; both places that occur are accepted."""
    found = [int(match[1]) for name in tensors if (match := _FINAL_NORM.fullmatch(name))]
    if len(found) != 1 or found[0] not in (layers + 2, layers + 3):
        raise CheckpointTensorError(
            f"{where}: final norms are at {sorted(found)}; {layers} layers have one, at "
            f"sequential.{layers + 3}.norm.weight or sequential.{layers + 2}.norm.weight"
        )
    return found[0]


def _foreign(network: StripedHyena2, name: str, *, norm: int) -> ForeignName:
    return ForeignName(_name_of(network, name, norm))


def _name_of(network: StripedHyena2, name: str, norm: int) -> str:
    layer = split_layer(name)
    if layer is None:
        return _WORDS if name == EMBEDDING else f"sequential.{norm}.norm.weight"
    index, leaf = layer
    letter = network.pattern[index]
    table = {**NORMS, **_MLP, **(_ATTENTION if letter == "*" else {**HYENA, **FILTERS[letter]})}
    return f"sequential.{index + 2}.{table[leaf]}"


def _fp8_states(tensors: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Returns name and value of the FP8 state of every projection by its native name."""
    found = {}
    for name, value in tensors.items():
        if match := _SCALES_OF.fullmatch(name):
            found[f"blocks.{int(match[1]) - 2}.projections"] = (name, value)
    return found


def _flat(entry: TensorEntry) -> Callable[[], Tensor]:
    return lambda: entry.produce()[:, 0, :]
