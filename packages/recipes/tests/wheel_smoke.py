"""Runs where only the wheel and what it requires are installed."""

import tempfile
from pathlib import Path

from subquad.lazy_config import apply_overrides
from subquad.recipes.baselines import markov_bits_per_base
from subquad.recipes.configs.small import config
from subquad.recipes.data import read_fasta, split_documents
from subquad.recipes.data.genomes import lambda_phage
from subquad.recipes.training import train

split = split_documents([read_fasta(lambda_phage())[0].sequence])
assert 1.9 < markov_bits_per_base(split.training, split.held_out, 3) < 2.0

small = ["model.hidden_size=16", "model.num_heads=2", "model.inner_size=16", "data.window=128"]
short = ["run.steps=2", "run.batch_size=2", "run.validate_every=2"]
with tempfile.TemporaryDirectory() as folder:
    result = train(apply_overrides(config(), [*small, *short]), output=Path(folder) / "run", progress=False)
    assert result.steps == 2
    assert (result.checkpoint / "model.safetensors").is_file()
    assert result.loss_image.read_bytes().startswith(b"\x89PNG")
