"""Tests of `subquad embed`."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from packages.inference.tests.commands.running import done, lines
from subquad.inference import Engine

TEXTS = {"a": "ACGTTGCA" * 3, "b": "GATTACA", "c": "ACG"}


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in TEXTS.items()))
    return path


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_pooled_layers_are_tensors_with_a_row_for_each_sequence(checkpoint, fasta, tmp_path, pooling):
    out = tmp_path / "out.safetensors"
    flags = ["-l", "blocks.2", "-l", "-1", "--pooling", pooling, "--batch-size", 2, "--device", "cpu"]
    done("embed", checkpoint, fasta, "-o", out, *flags)
    tensors = load_file(out)
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    expected = engine.embed(list(TEXTS.values()), ["blocks.2", "-1"], pooling=pooling, batch_size=2)
    for layer in ("blocks.2", "-1"):
        assert np.array_equal(tensors[layer], np.stack([found[layer].numpy() for found in expected]))
    assert bytes(tensors["id"]) == b"abc"
    assert tensors["length"].tolist() == [24, 7, 3]


def test_without_pooling_offsets_say_which_positions_are_whose(checkpoint, fasta, tmp_path):
    out = tmp_path / "out.safetensors"
    done("embed", checkpoint, fasta, "-o", out, "-l", "blocks.3.mlp.l3", "--pooling", "none", "--prepend-eod")
    tensors = load_file(out)
    assert tensors["blocks.3.mlp.l3"].shape == (34, 64)
    assert tensors["blocks.3.mlp.l3.offsets"].tolist() == [0, 24, 31, 34]


def test_json_lines_on_the_standard_output_hold_lists(checkpoint, fasta):
    rows = lines(done("embed", checkpoint, fasta, "-l", "blocks.0").stdout)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert {len(row["blocks.0"]) for row in rows} == {64}
