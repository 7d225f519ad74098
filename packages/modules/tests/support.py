"""What several test files share: the golden runs as our model, and random models with filters that matter."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from subquad.modules import StripedHyena2

DATA = Path(__file__).parent / "data"
TINY: dict[str, Any] = {
    "pattern": "SDH*SDH*",
    "hidden_size": 64,
    "num_heads": 4,
    "inner_size": 96,
    "filter_groups": 8,
}


def golden_run(name: str) -> dict[str, Tensor]:
    """Returns the tensors of one golden run; ``prefill`` is a scalar tensor."""
    path = DATA / f"vortex_tiny_{name}.safetensors"
    with safe_open(path, "pt") as file:
        prefill = int(file.metadata()["prefill"])
    shared = {}
    if name == "bf16":  # of the tokens of the float32 run
        run = golden_run("fp32")
        shared = {key: run[key] for key in ("ids", "positions", "spec_logits_fp64")}
    return {**shared, **load_file(path), "prefill": torch.tensor(prefill)}


def golden_model(dtype: torch.dtype = torch.float32, **options: Any) -> StripedHyena2:
    """Returns the model of the golden runs in the given type."""
    model = StripedHyena2(**TINY, **options)
    model.load_state_dict(from_vortex(load_file(DATA / "vortex_tiny_weights.safetensors")))
    return model.to(dtype).eval()


def from_vortex(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors and turns correlations round: in memory tap 0 multiplies the current sample."""
    mapped = {}
    for name, value in weights.items():
        if name.endswith("short_filter_weight"):
            mapped[name.replace("short_filter_weight", "projection_taps")] = value.squeeze(1).flip(-1)
        elif name.endswith("filter.h"):
            taps = value.squeeze(1)
            mapped[name.replace("filter.h", "filter.taps")] = taps.flip(-1) if taps.shape[1] == 7 else taps
        elif name.endswith("log_poles"):
            mapped[name] = value.squeeze(-1)
        else:
            mapped[name] = value
    return mapped


def lively_model(seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> StripedHyena2:
    """Returns a model in which every layer changes the output a good deal, unlike at its initial values."""
    model = StripedHyena2(**{**TINY, **options})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            draw = torch.randn(value.shape, generator=generator)
            if name.endswith((".taps", ".projection_taps")):
                value.copy_(draw * 0.4)
            elif name.endswith("log_poles"):
                value.copy_(-0.05 * torch.exp(draw))
            elif name.endswith(("residues", ".D")):
                value.copy_(draw * 0.3)
            elif value.ndim == 2 and "gamma" not in name and not name.endswith("filter.p"):
                value.copy_(draw * value.shape[-1] ** -0.5)
    return model.to(dtype).eval()


def random_ids(batch: int, length: int, seed: int = 0) -> Tensor:
    """Returns DNA bytes."""
    draw = torch.randint(0, 4, (batch, length), generator=torch.Generator().manual_seed(seed))
    return torch.tensor([65, 67, 71, 84])[draw]
