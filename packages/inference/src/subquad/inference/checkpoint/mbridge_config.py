"""The network of a Megatron-Bridge checkpoint, from the model section of its ``run_config.yaml``."""

from pathlib import Path
from typing import Any

from subquad.inference.checkpoint.mbridge import RUN_CONFIG, iteration_folder, run_config
from subquad.inference.checkpoint.restricted_pickle import shown
from subquad.inference.errors import CheckpointConfigError
from subquad.lazy_config import Config, LazyConfig
from subquad.modules import StripedHyena2

_LARGEST = 1e15
_NUMBERS = {
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "inner_size": "ffn_hidden_size",
    "filter_groups": "num_groups_hyena_medium",
}


def mbridge_config(path: Path) -> tuple[Config[Any], dict[str, Any]]:
    """Returns the network that a checkpoint describes, and ``{"max_sequence_tokens": …}``.

    Raises:
      CheckpointNotFound: ``path`` is no checkpoint.
      CheckpointConfigError: A field is missing or describes another network; ``--config`` is the way out.
    """
    folder = iteration_folder(path)
    model = run_config(folder).get("model")
    if not isinstance(model, dict):
        raise CheckpointConfigError(f"{folder / RUN_CONFIG} has no model section; name the network with --config")
    pattern = model.get("hybrid_override_pattern")
    if not isinstance(pattern, str):
        raise _missing(folder, "hybrid_override_pattern", pattern)
    if model.get("num_groups_hyena_short") != model.get("num_groups_hyena_medium"):
        raise CheckpointConfigError(
            f"{folder / RUN_CONFIG}: num_groups_hyena_short and num_groups_hyena_medium differ; they must agree"
        )
    values: dict[str, Any] = {"pattern": pattern, "fp8_projections": model.get("vortex_style_fp8") is True}
    for ours, theirs in _NUMBERS.items():
        if type(model.get(theirs)) is not int:
            raise _missing(folder, theirs, model.get(theirs))
        values[ours] = model[theirs]
    for ours, theirs, default in (
        ("rotary_base", "rotary_base", 1e4),
        ("rotary_scale", "seq_len_interpolation_factor", 1.0),
    ):
        value = model.get(theirs)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
            raise _missing(folder, theirs, value)
        values[ours] = float(value)
    length = model.get("seq_length")
    return LazyConfig(StripedHyena2)(**values), {"max_sequence_tokens": length} if isinstance(length, int) else {}


def _missing(folder: Path, field: str, value: object) -> CheckpointConfigError:
    kind = "a text" if field == "hybrid_override_pattern" else "a positive number"
    return CheckpointConfigError(
        f"{folder / RUN_CONFIG}: model.{field} is {shown(value)}; accepted: {kind}; --config names the network instead"
    )
