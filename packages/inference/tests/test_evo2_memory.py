"""The memory of ``predict_evo2``, each time in a process of its own, beside that of mutants that hold too much."""

import subprocess
import sys
from pathlib import Path

import pytest

from subquad.inference import save_checkpoint
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2

MEASURED = """
import sys, tracemalloc
import torch
from subquad.inference import evo2_predictions, predict_evo2, sequence_files
from subquad.inference.checkpoint import files
files._BLOCK = 1 << 14  # of a digest; 4 MiB would hide what is measured
{mutation}

def run(source, folder, *flags):
    sys.argv = ["predict_evo2", "--fasta", source, "--output-dir", folder, *flags]
    try:
        predict_evo2.main()
    except SystemExit as end:
        assert not end.code, end.code

first, source, folder, *flags = sys.argv[1:]
run(first, folder + "_first", *flags)  # what Python imports meanwhile counts no more
tracemalloc.start()
run(source, folder, *flags)
held = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(tracemalloc.get_traced_memory()[1], int(held.split()[1]) << 10)
"""
HOLDS_EVERY_BATCH = """
add, kept = evo2_predictions.PredictionFiles.add, []
evo2_predictions.PredictionFiles.add = lambda files, batch: (kept.append(batch), add(files, batch))
"""
READS_EVERYTHING = """
read = sequence_files.read_records
sequence_files.read_records = lambda *given, **options: iter(list(read(*given, **options)))
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network that takes next to nothing itself."""
    options = {"pattern": "S", "hidden_size": 8, "num_heads": 1, "inner_size": 8, "filter_groups": 2, "vocab_size": 256}
    save_checkpoint(tmp_path / "one", StripedHyena2(**options), LazyConfig(StripedHyena2)(**options))
    return tmp_path / "one"


def peaks(checkpoint: Path, *flags: str, count: int, bases: int, mutation: str = "") -> tuple[int, int]:
    """Runs ``predict_evo2``; returns the bytes of Python's objects and those of the process, at their highest."""
    source, folder = checkpoint.with_name("in.fa"), checkpoint.with_name(f"out_{count}_{len(mutation)}")
    source.write_text("".join(f">r{i}\n{'ACGT' * (bases // 4)}\n" for i in range(count)))
    first = checkpoint.with_name("first.fa")
    first.write_text(">r\nACGT\n")
    arguments = [first, source, folder, "--ckpt-dir", checkpoint, "--device", "cpu", *flags]
    code = MEASURED.format(mutation=mutation)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (folder / "seq_idx_map.json").read_text().count(":") == count
    objects, process = map(int, done.stdout.split())
    return objects, process


def test_predictions_by_batch_are_not_held(checkpoint: Path) -> None:
    flags = ("--write-interval", "batch", "--micro-batch-size", "16")
    few, many = (peaks(checkpoint, *flags, count=n, bases=40)[1] for n in (160, 2_000))
    allowed = few + (20 << 20)  # the logits of the others take 75 MB
    assert many < allowed, (few, many)
    assert peaks(checkpoint, *flags, count=2_000, bases=40, mutation=HOLDS_EVERY_BATCH)[1] > allowed


def test_sequences_are_not_held(checkpoint: Path) -> None:
    flags = ("--output-log-prob-seqs", "--log-prob-collapse-option", "sum")
    few, many = (peaks(checkpoint, *flags, count=n, bases=4_000)[0] for n in (40, 400))
    allowed = few + 400_000  # the bases of the others take 1.44 MB
    assert many < allowed, (few, many)
    assert peaks(checkpoint, *flags, count=400, bases=4_000, mutation=READS_EVERYTHING)[0] > allowed
