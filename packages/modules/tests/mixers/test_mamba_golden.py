"""Mamba in its block against recorded numbers of the published transformers 5.24.0; see ``data/README.md``."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor, cat

from subquad.lazy_config import LazyConfig
from subquad.modules import Mamba, QKVSequenceMixer
from tools.testing.oracle import assert_close

GOLDEN = load_file(Path(__file__).parents[1] / "data" / "transformers_mamba.safetensors")
OPTIONS: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8, "step_rank": 3},
    "mamba2": {"version": 2, "state_size": 8, "head_size": 4, "num_groups": 2},
}


def converted(case: str) -> dict[str, Tensor]:
    """Returns the recorded weights under our names; rows of the projection are [q, k, v], taps most recent first."""
    theirs = {
        name.rsplit("weight/", 1)[1]: value for name, value in GOLDEN.items() if name.startswith(f"{case}/weight/")
    }
    branch = "mixer.scans.0."
    ours = {
        "out_proj.weight": theirs["out_proj.weight"],
        f"{branch}conv.taps": theirs["conv1d.weight"].squeeze(1).flip(-1),
        f"{branch}conv.bias": theirs["conv1d.bias"],
        f"{branch}log_decay": theirs["A_log"],
        f"{branch}D": theirs["D"],
    }
    if case == "mamba":
        scanned, gate = theirs["in_proj.weight"].chunk(2)
        return ours | {
            "qkv_proj.weight": cat([gate, scanned]),
            f"{branch}x_proj.weight": theirs["x_proj.weight"],
            f"{branch}step_proj.weight": theirs["dt_proj.weight"],
            f"{branch}step_bias": theirs["dt_proj.bias"],
        }
    gate, scanned, control = theirs["in_proj.weight"].split([32, 32, 32 + 8])
    return ours | {
        "qkv_proj.weight": cat([gate, control, scanned]),
        f"{branch}step_bias": theirs["dt_bias"],
        "mixer.norm_scale": theirs["norm.weight"],
    }


@pytest.mark.parametrize("case", OPTIONS)
def test_the_block_agrees(case: str) -> None:
    model = QKVSequenceMixer(16, LazyConfig(Mamba)(channels=16, **OPTIONS[case]))
    model.load_state_dict(converted(case))
    assert_close(model(GOLDEN[f"{case}/input"]), GOLDEN[f"{case}/output"], relative=1e-5)
