"""The reference engine's own configuration of a network, which a Vortex file lacks and the engine asks for."""

import inspect
from pathlib import Path
from typing import Any

import yaml

from subquad.inference.checkpoint.files import check_new_file
from subquad.inference.checkpoint.vortex_config import DEMANDED, FIELDS, LAYERS, config_of_settings, vortex_config
from subquad.inference.errors import CheckpointConfigError
from subquad.inference.unfinished import replaced_file
from subquad.lazy_config import Config, LazyConfig, fields_of, instantiate
from subquad.modules import StripedHyena2

_LONGEST = 8192  # tokens, where nothing says what the network was made for
_ENGINE: dict[str, Any] = {
    "hyena_filter_groups": 1,
    "column_split": True,
    "make_vocab_size_divisible_by": 8,
    "inner_size_multiple_of": 16,
    "model_parallel_size": 1,
    "pipe_parallel_size": 1,
    "max_batch_size": 1,
    "inference_mode": True,
    "prefill_style": "fft",
    "print_activations": False,
    "log_intermediate_values": False,
    "use_flash_attn": False,  # plain attention runs wherever the engine does
    "use_flash_rmsnorm": False,
    "use_flash_depthwise": False,
    "use_flashfft": False,
}


def settings_path(target: Path) -> Path:
    """Returns where the configuration of a Vortex file lies: beside it, with ``.yml`` in place of ``.pt``."""
    return target.with_suffix(".yml") if target.suffix == ".pt" else target.with_name(f"{target.name}.yml")


def vortex_settings(config: Config[Any], *, name: str, longest: int | None = None) -> dict[str, Any]:
    """Returns what the reference engine reads, and `vortex_config` reads back.

    Args:
      config: A StripedHyena 2.
      name: What the model is called.
      longest: The longest sequence that it was made for, in tokens.

    Raises:
      CheckpointConfigError: The reference engine has no such network.
    """
    ours = _resolved(config)
    if ours["norm_form"] != "vortex":
        raise CheckpointConfigError(f"norm_form is {ours['norm_form']!r}; the reference engine has 'vortex' alone")
    pattern, channels = ours["pattern"], ours["hidden_size"]
    settings = {
        "model_name": name,
        **{theirs: [i for i, own in enumerate(pattern) if own == letter] for theirs, letter in LAYERS.items()},
        "num_layers": len(pattern),
        **{theirs: ours[field] for field, theirs in FIELDS.items()},
        "hcm_filter_groups": ours["filter_groups"],
        "hcl_filter_groups": channels,
        "num_filters": channels,
        "inner_mlp_size": ours["inner_size"],
        "max_seqlen": longest or _LONGEST,
        "use_fp8_input_projections": bool(ours["fp8_projections"]),
        **DEMANDED,
        **_ENGINE,
    }
    if ours["rotary_scale"] != 1:
        settings |= {"use_interpolated_rotary_pos_emb": True, "rotary_emb_scaling_factor": ours["rotary_scale"]}
    return settings


def _resolved(config: Config[Any]) -> dict[str, Any]:
    """Returns every argument of the network, those that are left out or made of others too."""

    def kept(**fields: Any) -> dict[str, Any]:
        return fields

    signature = inspect.signature(StripedHyena2)
    vars(kept)["__signature__"] = signature
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    return {**defaults, **instantiate(LazyConfig(kept)(**fields_of(config)))}


def check_settings(target: Path, settings: dict[str, Any], *, overwrite: bool) -> bool:
    """Says whether a configuration is to be written beside ``target``: not where one of the same network lies there.

    Raises:
      CheckpointExists: One of another network lies there and may not be replaced, or something else does.
    """
    path = settings_path(target)
    if path.is_file():
        try:
            if vortex_config(str(path))[0] == config_of_settings(path, settings)[0]:
                return False
        except CheckpointConfigError:
            pass  # something else
    check_new_file(path, overwrite=overwrite)
    return True


def write_settings(target: Path, settings: dict[str, Any]) -> None:
    """Writes the configuration of a Vortex file; it appears complete or not at all."""
    with replaced_file(settings_path(target)) as partial:
        partial.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
