"""The configuration of a Vortex checkpoint: a preset's name, the engine's own YAML file or a native checkpoint's."""

import contextlib
import json
from pathlib import Path
from typing import Any

import yaml

from subquad.inference.checkpoint.native import from_text
from subquad.inference.checkpoint.restricted_pickle import shown
from subquad.inference.checkpoint.summary import CONFIG_FILE, METADATA_FILE
from subquad.inference.errors import CheckpointConfigError
from subquad.lazy_config import Config, LazyConfig, derive, target_of
from subquad.modules import STRIPED_HYENA2_PRESETS, StripedHyena2, striped_hyena2_preset

LAYERS = {"hcs_layer_idxs": "S", "hcm_layer_idxs": "D", "hcl_layer_idxs": "H", "attn_layer_idxs": "*"}
FIELDS = {
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "filter_groups": "hcs_filter_groups",
    "vocab_size": "vocab_size",
    "short_filter_length": "hcs_filter_length",
    "medium_filter_length": "hcm_filter_length",
    "projection_filter_length": "short_filter_length",
    "state_size": "state_size",
    "rotary_base": "rotary_emb_base",
    "eps": "eps",
}
_REAL = ("rotary_base", "eps")  # the others count something
_LARGEST = 1e15
DEMANDED = {
    "proj_groups": 1,
    "tie_embeddings": True,
    "interleave": True,
    "column_split_hyena": False,
    "hyena_flip_x1x2": False,
    "evo2_style_activations": True,
    "mlp_activation": "gelu",
    "mha_out_proj_bias": True,
    "hyena_out_proj_bias": True,
    "qkv_proj_bias": False,
    "short_filter_bias": False,
    "final_norm": True,
}


def vortex_config(source: str) -> tuple[Config[Any], dict[str, Any]]:
    """Returns the network of a preset's name, a Vortex YAML file or a native checkpoint, and its longest sequence.

    Args:
      source: The name or path; of a native checkpoint its directory or its ``config.yaml``.

    Returns:
      The network with filters by poles, and ``{"max_sequence_tokens": …}`` where it is known.

    Raises:
      CheckpointConfigError: Neither a preset nor a YAML file; or a field is missing or has a value that this network
        does not have.
    """
    preset = STRIPED_HYENA2_PRESETS.get(source)
    if preset is not None:
        config = striped_hyena2_preset(source)
        config.filter_parameters = "poles"
        config.fp8_projections = preset.needs_fp8
        return config, {"max_sequence_tokens": preset.context_length}
    path = Path(source) / CONFIG_FILE if Path(source).is_dir() else Path(source)
    if not path.is_file():
        names = ", ".join(STRIPED_HYENA2_PRESETS)
        accepted = f"a Vortex YAML file, a native checkpoint, or one of {names}"
        raise CheckpointConfigError(f"--config is {source!r}; accepted: {accepted}")
    try:
        text = path.read_text(encoding="utf-8")
        fields = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no UTF-8, no such date, brackets without end
        raise CheckpointConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(fields, dict):
        raise CheckpointConfigError(f"{path} holds no fields")
    return _native(path, text) if "_target_" in fields else config_of_settings(path, fields)


def _native(path: Path, text: str) -> tuple[Config[Any], dict[str, Any]]:
    config = from_text(text, str(path))
    if target_of(config) is not StripedHyena2:
        raise CheckpointConfigError(f"{path} builds {target_of(config).__name__}; accepted: StripedHyena2")
    length = None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a config.yaml may stand alone
        length = json.loads((path.parent / METADATA_FILE).read_text(encoding="utf-8")).get("max_sequence_tokens")
    extra = {"max_sequence_tokens": length} if type(length) is int else {}
    return derive(config, {"filter_parameters": "poles"}), extra


def config_of_settings(path: Path, fields: dict[str, Any]) -> tuple[Config[Any], dict[str, Any]]:
    """Does vortex_config for the fields of a Vortex YAML file; ``path`` is named in errors."""
    for name, accepted in DEMANDED.items():
        if name in fields and fields[name] != accepted:
            raise CheckpointConfigError(f"{path}: {name} is {shown(fields[name])}; accepted: {accepted!r}")
    if fields.get("hcs_filter_groups") != fields.get("hcm_filter_groups"):
        raise CheckpointConfigError(f"{path}: hcs_filter_groups and hcm_filter_groups differ; they must agree")
    values = {
        ours: (_number if ours in _REAL else _count)(path, fields, theirs)
        for ours, theirs in FIELDS.items()
        if theirs in fields
    }
    for needed in ("hidden_size", "num_heads", "filter_groups"):
        if needed not in values:
            raise CheckpointConfigError(f"{path}: {FIELDS[needed]} is missing")
    scale = 1.0
    if fields.get("use_interpolated_rotary_pos_emb"):
        scale = float(_number(path, fields, "rotary_emb_scaling_factor"))
    values |= {
        "pattern": _pattern(path, fields),
        "inner_size": _inner_size(path, fields),
        "rotary_base": float(values.get("rotary_base", 1e4)),
        "rotary_scale": scale,
        "fp8_projections": bool(fields.get("use_fp8_input_projections", False)),
    }
    length = fields.get("max_seqlen")
    extra = {} if length is None else {"max_sequence_tokens": _count(path, fields, "max_seqlen")}
    return LazyConfig(StripedHyena2)(**values), extra


def _number(path: Path, fields: dict[str, Any], name: str) -> Any:
    value = fields.get(name)
    if isinstance(value, str):  # YAML 1.1 reads 1e-6, without a dot, as a text
        with contextlib.suppress(ValueError):
            value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not -_LARGEST <= value <= _LARGEST:
        raise CheckpointConfigError(f"{path}: {name} is {shown(value)}; accepted: a number")
    return value


def _count(path: Path, fields: dict[str, Any], name: str) -> int:
    value = _number(path, fields, name)
    if value != int(value) or value < 1:
        raise CheckpointConfigError(f"{path}: {name} is {value!r}; accepted: an integer, 1 or more")
    return int(value)


def _pattern(path: Path, fields: dict[str, Any]) -> str:
    letters: dict[int, str] = {}
    for name, letter in LAYERS.items():
        indices = fields.get(name) or []
        if not isinstance(indices, list) or not all(type(index) is int for index in indices):
            raise CheckpointConfigError(
                f"{path}: {name} is {shown(indices)}; accepted: a list of the numbers of layers"
            )
        for index in indices:
            if index in letters:
                raise CheckpointConfigError(f"{path}: layer {index} is in {name} and in another list")
            letters[index] = letter
    count = _count(path, fields, "num_layers")
    if len(letters) != count or sorted(letters) != list(range(count)):
        raise CheckpointConfigError(f"{path}: the layer lists name {sorted(letters)}, num_layers is {count}")
    return "".join(letters[index] for index in range(count))


def _inner_size(path: Path, fields: dict[str, Any]) -> int:
    """The size that is given, else two thirds of four times the width, rounded up to a multiple."""
    if fields.get("inner_mlp_size") is not None:
        return _count(path, fields, "inner_mlp_size")
    given = {"inner_size_multiple_of": 64, "model_parallel_size": 1, **fields}
    multiple = _count(path, given, "inner_size_multiple_of") * _count(path, given, "model_parallel_size")
    size = int(2 * _count(path, fields, "hidden_size") * 4 / 3)
    return -(-size // multiple) * multiple
