"""Megatron-Bridge checkpoints of Evo 2: a distributed checkpoint in ``iter_*/``, with either set of norm names."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from subquad.inference.checkpoint.distributed import METADATA, DistributedCheckpoint, Piece, read_distributed
from subquad.inference.checkpoint.layer_names import FILTERS, HYENA, ForeignName, read_foreign, split_layer
from subquad.inference.checkpoint.saved_archive import load_archive
from subquad.inference.checkpoint.source import EMBEDDING, TensorSource
from subquad.inference.errors import CheckpointConfigError, CheckpointError, CheckpointNotFound, CheckpointTensorError
from subquad.lazy_config import Config
from subquad.modules import StripedHyena2

RUN_CONFIG = "run_config.yaml"
_LATEST, _DIGITS = "latest_checkpointed_iteration.txt", 18
_WORDS = "embedding.word_embeddings.weight"
_FINAL_NORM = "decoder.final_norm.weight"
_ATTENTION = {
    "inner_mha_cls.Wqkv.weight": "self_attention.linear_qkv.weight",
    "inner_mha_cls.out_proj.weight": "self_attention.linear_proj.weight",
    "inner_mha_cls.out_proj.bias": "self_attention.linear_proj.bias",
}
_MLP = {
    "mlp.l1.weight": ForeignName("mlp.linear_fc1.weight", half=0),
    "mlp.l2.weight": ForeignName("mlp.linear_fc1.weight", half=1),
    "mlp.l3.weight": ForeignName("mlp.linear_fc2.weight"),
}
_FUSED_NORMS = ("mixer.dense_projection.layer_norm_weight", "self_attention.linear_qkv.layer_norm_weight")
_PLAIN_NORMS = ("norm.weight", "input_layernorm.weight")
_ADAPTER = re.compile(r"(\.adapter\.|lora_|\.linear_in\.weight$|\.linear_out\.weight$)")
_NO_MODEL = re.compile(r"^(optimizer|chained_\d|rng_state|rerun_state|opt_param|iteration|checkpoint_version|args)")
_STATE = re.compile(r"decoder\.layers\.(\d+)\.mixer\.dense_projection\._extra_state(/shard_0_\d+)?$")


@contextmanager
def open_mbridge(path: Path, config: Config[Any]) -> Iterator[TensorSource]:
    """Opens a checkpoint directory, or one ``iter_*`` folder of it.

    Raises:
      CheckpointNotFound: There is none.
      CheckpointError: A file is damaged or would run code.
      CheckpointTensorError: It holds adapters only, or a tensor does not fit the config.
    """
    folder = iteration_folder(path)
    stored = read_distributed(folder)
    tensors: dict[str, Any] = {}
    for name, entry in stored.tensors.items():
        if not _NO_MODEL.search(name):
            tensors[name.removeprefix("module.").removeprefix("model.")] = entry
    _refuse_adapters(folder, tensors)
    yield read_foreign(
        str(folder),
        tensors,
        config,
        embedding=_WORDS,
        naming=partial(_foreign, fused=any(name.endswith(_FUSED_NORMS) for name in tensors)),
        states=_fp8_states(folder, stored),
    )


def iteration_folder(path: Path) -> Path:
    """Returns the folder of the last iteration.

    Raises:
      CheckpointNotFound: ``path`` is no checkpoint directory.
      CheckpointError: The file that names the iteration is damaged.
    """
    if (path / METADATA).is_file():
        return path
    latest = path / _LATEST
    if not latest.is_file():
        what = f"has neither {METADATA} nor {_LATEST}" if path.is_dir() else "is no directory"
        raise CheckpointNotFound(f"{path} {what}; accepted: a Megatron-Bridge checkpoint or its iter_* folder")
    number = latest.read_text(encoding="ascii", errors="replace").strip()
    if not number.isdigit() or len(number) > _DIGITS:
        raise CheckpointError(f"{latest} holds {number[:40]!r}; accepted: the number of an iteration")
    return path / f"iter_{int(number):07d}"


def run_config(path: Path) -> dict[str, Any]:
    """Returns what the run wrote down of itself, or nothing; classes that it names are not made.

    Raises:
      CheckpointConfigError: It is no plain YAML.
    """
    file = path / RUN_CONFIG
    if not file.is_file():
        return {}
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no UTF-8, no such date, brackets without end
        raise CheckpointConfigError(f"{file} is no plain YAML: {str(error).splitlines()[0]}") from None
    return loaded if isinstance(loaded, dict) else {}


def _refuse_adapters(folder: Path, tensors: Mapping[str, Any]) -> None:
    adapters = [name for name in tensors if _ADAPTER.search(name)]
    peft = run_config(folder).get("peft")
    if not adapters and (not peft or _WORDS in tensors):
        return
    base = peft.get("pretrained_checkpoint") if isinstance(peft, dict) else None
    base = base if isinstance(base, str) else None
    what = f"{len(adapters)} adapter tensors such as {adapters[0]}" if adapters else "a peft section and no embedding"
    raise CheckpointTensorError(
        f"{folder}: is a LoRA checkpoint with {what}; merge it into its base"
        f"{f' {base}' if base else ''} first, and convert what comes out"
    )


def _foreign(network: StripedHyena2, name: str, *, fused: bool) -> ForeignName:
    layer = split_layer(name)
    if layer is None:
        return ForeignName(_WORDS if name == EMBEDDING else _FINAL_NORM)
    index, leaf = layer
    attention = network.pattern[index] == "*"
    if leaf == "pre_norm.scale":
        found = ForeignName((_FUSED_NORMS if fused else _PLAIN_NORMS)[attention])
    elif leaf == "post_norm.scale":
        found = ForeignName("mlp.linear_fc1.layer_norm_weight" if fused else "pre_mlp_layernorm.weight")
    elif leaf in _MLP:
        found = _MLP[leaf]
    else:
        found = ForeignName((_ATTENTION if attention else {**HYENA, **FILTERS[network.pattern[index]]})[leaf])
    return found._replace(name=f"decoder.layers.{index}.{found.name}")


def _fp8_states(folder: Path, stored: DistributedCheckpoint) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    for name, piece in stored.objects.items():
        plain = name.removeprefix("module.").removeprefix("model.")
        if match := _STATE.search(plain):
            found[f"blocks.{match[1]}.projections"] = (plain, _object(f"{folder}: {plain}", piece))
    for name, entry in stored.tensors.items():
        plain = name.removeprefix("module.").removeprefix("model.")
        if match := _STATE.search(plain):
            found[f"blocks.{match[1]}.projections"] = (plain, entry.produce())
    return found


def _object(where: str, piece: Piece) -> Any:
    refused: Callable[[str, str], bool] = lambda *_: False  # noqa: E731
    return load_archive(piece.read(), where, records=refused)
