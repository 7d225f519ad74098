"""The benchmark of what rounding costs: its rows, and what it measures against."""

import json
import os
import subprocess
import sys
from pathlib import Path

from packages.inference.tests.trained_network import motif, trained_network
from subquad.inference import save_checkpoint
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "rounding.py"
SIZES = ["--length", "48", "--windows", "3", "--variants", "6"]


def measured(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the benchmark."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    command = [sys.executable, str(BENCHMARK), *arguments, *SIZES]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_every_form_is_compared_with_float32(tmp_path: Path) -> None:
    config = LazyConfig(StripedHyena2)(
        pattern="SDH*SDH", hidden_size=64, num_heads=4, inner_size=96, filter_groups=8, filter_parameters="p_gamma"
    )
    save_checkpoint(tmp_path / "trained", trained_network(), config)
    fasta, file = tmp_path / "in.fa", tmp_path / "rows.json"
    fasta.write_text(f">a\n{motif() * 8}\n")
    network = ["--network", "motif", str(tmp_path / "trained"), str(fasta)]
    result = measured(*network, "--emulate", "--json", str(file))
    assert result.returncode == 0, result.stderr
    record = json.loads(file.read_text())
    assert {"title", "date", "command", "device", "versions", "plot"} <= set(record)
    rows = {(row["dtype"], row["projections"], row["weights"]): row for row in record["rows"]}
    assert len(rows) == len(record["rows"]) == len(result.stdout.splitlines()) == 12
    exact = rows.pop(("float32", "plain", "stored"))
    assert exact["largest_difference"] == exact["extra_bits"] == exact["variants_mean_difference"] == 0
    assert exact["same_likeliest"] == exact["variants_rank_correlation"] == exact["same_prefix"] == 1
    assert exact["bits_per_base"] < 1  # it has learned the motif
    for row in rows.values():
        assert 0 < row["mean_difference"] < row["largest_difference"]
        assert row["variants_mean_difference"] > 0
    means = {form: row["mean_difference"] for form, row in rows.items()}
    assert means["bfloat16", "plain", "stored"] < means["float32", "plain", "fp8"]
    assert means["float32", "exact", "stored"] < means["float32", "exact", "fp8"]
    assert means["float32", "exact", "stored"] != means["float32", "emulate", "stored"]


def test_too_little_sequence_is_said_with_both_numbers(tmp_path: Path) -> None:
    fasta = tmp_path / "in.fa"
    fasta.write_text(f">a\n{'ACGT' * 20}NN{'ACGT' * 20}\n")
    result = measured("--network", "a", "nowhere", str(fasta))
    assert result.returncode == 1
    assert f"{fasta} has 2 windows of 48 bases A, C, G and T; 6 are needed" in result.stderr
