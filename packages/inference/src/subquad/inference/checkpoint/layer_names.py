"""Names of tensors in Savanna and Megatron-Bridge checkpoints against native ones: tables, and what applies them.

No matrix is transposed and no row moves: Hyena projections are ``3 * channel + part``, attention is head-major in all
of these formats.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subquad.inference.checkpoint.fp8_scales import scale_entries
from subquad.inference.checkpoint.native import expected_tensors
from subquad.inference.checkpoint.report import SAME, MappedTensor
from subquad.inference.checkpoint.source import TensorSource, entry_of, made_entry, striped_hyena2_of
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.errors import CheckpointTensorError
from subquad.lazy_config import Config
from subquad.modules import RotaryEmbedding, StripedHyena2

NORMS = {"pre_norm.scale": "input_layernorm.weight", "post_norm.scale": "pre_mlp_layernorm.weight"}
HYENA = {
    "projections.weight": "mixer.dense_projection.weight",
    "filter.short_filter_weight": "mixer.hyena_proj_conv.short_conv_weight",
    "out_filter_dense.weight": "mixer.dense.weight",
    "out_filter_dense.bias": "mixer.dense.bias",
}
FILTERS = {
    "S": {"filter.h": "mixer.mixer.short_conv.short_conv_weight"},
    "D": {
        "filter.h": "mixer.mixer.filter.h",
        "filter.decay": "mixer.mixer.filter.decay",
        "filter.D": "mixer.mixer.conv_bias",
    },
    "H": {
        "filter.p": "mixer.mixer.filter.p",
        "filter.gamma": "mixer.mixer.filter.gamma",
        "filter.residues": "mixer.mixer.filter.R",
        "filter.D": "mixer.mixer.conv_bias",
    },
}
FREQUENCIES = "rotary_emb.inv_freq"


class ForeignName(NamedTuple):
    """Where another format keeps a native tensor.

    Attributes:
      name: Its name there.
      half: Which half of the rows it is there: 0, 1, or None for all of them.
    """

    name: str
    half: int | None = None


Naming = Callable[[StripedHyena2, str], ForeignName]


def split_layer(name: str) -> tuple[int, str] | None:
    """Splits ``blocks.7.pre_norm.scale`` into 7 and ``pre_norm.scale``; None for a tensor of no block."""
    first, _, rest = name.partition(".")
    if first != "blocks":
        return None
    number, _, leaf = rest.partition(".")
    return int(number), leaf


def read_foreign(
    where: str,
    tensors: Mapping[str, Any],
    config: Config[Any],
    *,
    embedding: str,
    naming: Naming,
    states: Mapping[str, tuple[str, Any]],
) -> TensorSource:
    """Makes the native tensors of a network in the training form of those of another format.

    Args:
      where: What errors call the file.
      tensors: Everything it holds, by name.
      config: The network.
      embedding: The name of the embedding there, whose type decides that of the network.
      naming: Gives the name there of a native tensor.
      states: Name and value of the stored FP8 state of each projection, by the projection's native name.

    Raises:
      CheckpointTensorError: A tensor is missing, unknown or has another shape.
    """
    config = copy.deepcopy(config)
    config.filter_parameters = "p_gamma"
    if embedding not in tensors:
        raise CheckpointTensorError(f"{where}: tensor {embedding} is missing")
    dtype = entry_of(embedding, tensors[embedding], where=where).dtype
    network = striped_hyena2_of(config, dtype, where)
    forms = expected_tensors(network)
    entries, report = scale_entries(where, states, forms)
    used = set()
    for name, form in forms.items():
        if name.endswith(FREQUENCIES):
            entries[name] = made_entry(name, form, partial(_frequencies, network, name))
            report.append(MappedTensor("the config's rotary_base", name, "computed"))
        elif name not in entries:
            foreign = naming(network, name)
            if foreign.name not in tensors:
                raise CheckpointTensorError(f"{where}: tensor {foreign.name} is missing (it becomes {name})")
            used.add(foreign.name)
            entry = entry_of(foreign.name, tensors[foreign.name], where=where)
            medium = f"{name.rpartition('.')[0]}.decay" in forms
            how = _difference(where, entry, foreign, (name, *form), medium=medium)
            entries[name] = made_entry(name, form, partial(_cut, entry, foreign.half, form[0]))
            report.append(MappedTensor(foreign.name, name, how))
    reported = used | {row.source for row in report}
    for name in tensors:
        if name not in reported:
            report.append(MappedTensor(name, None, _why_unused(where, name)))
    return TensorSource(where, config, dtype, entries, report)


def _why_unused(where: str, name: str) -> str:
    """Says why a tensor is left out.

    Raises:
      CheckpointTensorError: There is no reason to.
    """
    if name.endswith("_extra_state"):
        return "left out: FP8 state of a layer that this network computes without"
    if name.endswith((FREQUENCIES, ".filter.t")):
        return "left out: made anew"
    bias = "; biases on short filters belong to a variant that this network does not have"
    raise CheckpointTensorError(
        f"{where}: tensor {name} is unknown to the config{bias if name.endswith('conv_bias') else ''}"
    )


def _difference(
    where: str, entry: TensorEntry, foreign: ForeignName, native: tuple[str, torch.Size, torch.dtype], *, medium: bool
) -> str:
    """Says what has to be done to a tensor, or that nothing has; only medium filters may be longer than they need."""
    name, wanted, dtype = native
    steps = []
    rows, *rest = entry.shape if entry.shape else (1,)
    if foreign.half is not None:
        rows, odd = divmod(rows, 2)
        steps.append(("first", "second")[foreign.half] + " half of the rows" if not odd else "")
    got = [rows, *rest]
    if len(wanted) == 3 and len(got) == 2:
        got.insert(1, 1)
        steps.append("middle axis added")
    if medium and name.endswith((".h", ".decay")) and got[-1] > wanted[-1]:
        steps.append(f"first {wanted[-1]} of {got[-1]} taps")
        got[-1] = wanted[-1]
    if got != list(wanted):
        raise CheckpointTensorError(
            f"{where}: tensor {foreign.name} is {list(entry.shape)}, the config asks for "
            f"{[2 * wanted[0], *wanted[1:]] if foreign.half is not None else list(wanted)} (it becomes {name})"
        )
    if entry.dtype != dtype:
        steps.append(f"{_short(entry.dtype)} to {_short(dtype)}")
    return "; ".join(step for step in steps if step) or SAME


def _cut(entry: TensorEntry, half: int | None, shape: torch.Size) -> Tensor:
    tensor = entry.produce()
    if half is not None:
        tensor = tensor[half * shape[0] : (half + 1) * shape[0]]
    return tensor[..., : shape[-1]].reshape(shape)


def _frequencies(network: StripedHyena2, name: str) -> Tensor:
    rotary = network.get_submodule(name.removesuffix(".inv_freq"))
    assert isinstance(rotary, RotaryEmbedding)
    return RotaryEmbedding(2 * len(rotary.inv_freq), base=rotary.base, device="cpu").inv_freq


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
