"""Runs in a fresh environment that holds the wheel and only what it declares to need."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from subquad.inference import ByteTokenizer, Engine, GenerationOptions, save_checkpoint
from subquad.lazy_config import instantiate
from subquad.modules import striped_hyena2_preset

config = striped_hyena2_preset("tiny")
network = instantiate(config)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "tiny"
    save_checkpoint(path, network, config)
    options = GenerationOptions(max_new_tokens=4)
    expected = Engine(network, ByteTokenizer()).generate(["ACGT"], options)
    assert Engine.from_checkpoint(path, device="cpu").generate(["ACGT"], options) == expected
    done = subprocess.run(
        [sys.executable, "-m", "subquad.inference", "info", str(path)], check=True, capture_output=True
    )
    assert b"StripedHyena2" in done.stdout
for script in ("infer_evo2", "predict_evo2"):
    helped = subprocess.run([Path(sys.executable).with_name(script), "--help"], check=True, capture_output=True)
    assert b"--ckpt-dir" in helped.stdout
for absent in ("megatron", "lightning", "grpc"):
    assert importlib.util.find_spec(absent) is None, f"{absent} is within reach; the wheel must not need it"
