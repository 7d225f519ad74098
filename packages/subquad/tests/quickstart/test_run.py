"""Runs the main job as its user does: a process of its own, real files, wrong input, Ctrl-C, a second run."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subquad.recipes.data.genomes import lambda_phage, phix174

_COMMAND = [sys.executable, "-m", "subquad", "quickstart"]


def _run(*arguments: str, folder: Path, seconds: float = 800) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the main job has run with its defaults, and what it printed."""
    folder = tmp_path_factory.mktemp("caller")
    run = _run("--no-progress", folder=folder)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return folder, run.stdout


def test_the_main_job_learns_and_beats_the_order_0_entropy(finished: tuple[Path, str]):
    folder, _ = finished
    summary = json.loads((folder / "subquad-quickstart" / "run" / "summary.json").read_text())
    assert summary["held_out_bits"] < summary["order0_entropy"] < 2.0


def test_the_main_job_leaves_the_checkpoint_and_both_pictures_and_nothing_else(finished: tuple[Path, str]):
    folder, _ = finished
    assert [path.name for path in folder.iterdir()] == ["subquad-quickstart"]
    output = folder / "subquad-quickstart"
    for picture in ("loss.png", "likelihood.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
    assert {"config.yaml", "model.safetensors", "metadata.json"} <= {
        path.name for path in (output / "run" / "checkpoint").iterdir()
    }


def test_the_report_names_the_baselines_the_generation_the_scores_and_the_places(finished: tuple[Path, str]):
    _, printed = finished
    for part in ("Markov model of order 2", "StripedHyena 2 after", "generated after", "log-likelihood", "loss.png"):
        assert part in printed, f"{part!r} is missing from:\n{printed}"


def test_a_second_run_replaces_the_first(finished: tuple[Path, str]):
    folder, _ = finished
    before = (folder / "subquad-quickstart" / "run" / "summary.json").stat().st_ino
    run = _run("--no-progress", "run.steps=10", folder=folder)
    assert run.returncode == 1, "ten steps cannot beat the order-0 entropy, so the job must fail"
    assert "error: the network needs" in run.stderr
    after = (folder / "subquad-quickstart" / "run" / "summary.json").stat().st_ino
    assert before == after, "a failed run must leave the earlier one alone"
    assert [path.name for path in folder.iterdir()] == ["subquad-quickstart"]


def test_a_small_genome_of_ones_own_is_learned_without_learning_it_by_heart(tmp_path: Path):
    (tmp_path / "own.fasta.gz").write_bytes(gzip.compress(phix174().read_bytes()))
    run = _run("--no-progress", "--genome", "own.fasta.gz", folder=tmp_path)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    summary = json.loads((tmp_path / "subquad-quickstart" / "run" / "summary.json").read_text())
    assert summary["held_out_bits"] < summary["order0_entropy"] < 2.0


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "empty"), (b"ACGT\n", ">"), (b">a\nAC\xffGT\n", "ASCII"), (b"\x1f\x8b\x08\x00truncated", "gzip")],
    ids=["empty", "not FASTA", "not ASCII", "truncated gzip"],
)
def test_a_bad_genome_ends_in_one_clear_line(content: bytes, expected: str, tmp_path: Path):
    (tmp_path / "bad.fasta.gz" if expected == "gzip" else tmp_path / "bad.fasta").write_bytes(content)
    name = "bad.fasta.gz" if expected == "gzip" else "bad.fasta"
    run = _run("--genome", name, folder=tmp_path, seconds=120)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1, run.stderr
    assert name in run.stderr
    assert expected in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_unknown_setting_ends_in_one_clear_line(tmp_path: Path):
    run = _run("run.stepz=5", folder=tmp_path, seconds=120)
    assert run.returncode == 2
    assert "stepz" in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    run = _run("--output", "mine", folder=tmp_path, seconds=120)
    assert run.returncode == 1
    assert "mine holds something else" in run.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_ctrl_c_in_training_leaves_nothing_behind(tmp_path: Path):
    genome = tmp_path / "lambda.fasta"
    genome.write_bytes(lambda_phage().read_bytes())
    process = subprocess.Popen(
        [*_COMMAND, "--genome", "lambda.fasta", "run.validate_every=2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not any(tmp_path.glob(".subquad-quickstart.*/run/metrics.jsonl")):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors[-2000:]
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["lambda.fasta"]
