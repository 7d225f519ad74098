"""Tests of jobs that are interrupted, and of the memory that a long job takes."""

import inspect
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest

from packages.inference.tests.commands.running import done, lines, run
from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import Engine, save_checkpoint
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text("".join(f">r{i}\n{'ACGTTGCA' * (1 + i % 3)}{'ACG'[: i % 4]}\n" for i in range(50)))
    return path


JOBS = [
    (["score", "CKPT", "IN", "--batch-size", "2", "--per-token"], "jsonl"),
    (["score", "CKPT", "IN", "--batch-size", "2", "--per-token"], "safetensors"),
    (["embed", "CKPT", "IN", "-l", "blocks.2", "-l", "-1", "--pooling", "none"], "safetensors"),
    (["embed", "CKPT", "IN", "-l", "blocks.2", "--batch-size", "2"], "parquet"),
    (["generate", "CKPT", "-i", "IN", "--max-new-tokens", "3", "--temperature", "1", "--seed", "5"], "parquet"),
]


@pytest.mark.parametrize(("job", "suffix"), JOBS)
def test_a_job_that_broke_and_was_resumed_gives_the_same_file(checkpoint, fasta, tmp_path, monkeypatch, job, suffix):
    command = [{"CKPT": str(checkpoint), "IN": str(fasta)}.get(word, word) for word in job]
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    done(*command, "-o", whole)
    for left in (35, 41):  # it breaks twice
        with monkeypatch.context() as context:
            break_after(context, left)
            broken = run(*command, "-o", out, "--resume")
        assert broken.exit_code == 1
        assert "--resume goes on from there" in broken.stderr
        assert not out.exists()
    done(*command, "-o", out, "--resume")
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fa", out.name, whole.name]


def break_after(context, count):
    """Lets a job write so many rows, then fail."""
    from subquad.inference.result_journal import Journal

    original = Journal.write

    def write(self, row, **options):
        if self.count >= count:
            raise RuntimeError("power cut")
        original(self, row, **options)

    context.setattr(Journal, "write", write)


def test_a_killed_process_leaves_rows_that_a_second_run_completes(checkpoint, tmp_path):
    source, out, whole = tmp_path / "in.fa", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    source.write_text("".join(f">r{i}\n{'ACGTTGCA' * 25}\n" for i in range(240)))
    command = ["score", str(checkpoint), str(source), "--batch-size", "4", "--device", "cpu"]
    done(*command, "-o", whole)
    process = subprocess.Popen([sys.executable, "-m", "subquad.inference", *command, "-o", str(out)])
    rows, end = out.with_name("out.jsonl.partial") / "rows.jsonl", time.monotonic() + 60
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert 0 < len(rows.read_text().splitlines()) < 240
    done(*command, "-o", out, "--resume")
    assert out.read_bytes() == whole.read_bytes()


def test_resuming_with_another_input_or_other_settings_is_refused(checkpoint, fasta, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as context:
        break_after(context, 20)
        run("score", checkpoint, fasta, "-o", out)
    other = run("score", checkpoint, fasta, "-o", out, "--resume", "--strand", "both")
    assert other.exit_code == 2
    assert "--strand is 'both'; accepted: 'forward', as in the job to resume, or no --resume" in other.stderr
    before = fasta.read_text()
    fasta.write_text(before.replace(">r7\nACG", ">r7\nACC"))
    result = run("score", checkpoint, fasta, "-o", out, "--resume")
    assert result.exit_code == 2
    assert "line 15: record 'r7' has another sequence than in the job to resume; the input has" in result.stderr
    fasta.write_text(before.replace(">r7\n", ">z\n"))
    result = run("score", checkpoint, fasta, "-o", out, "--resume")
    assert result.exit_code == 2
    assert "record 'z' comes where the results to resume have 'r7'; the input has changed" in result.stderr
    fasta.write_text(">r0\nACGTTGCA\n")
    assert "ends before record 'r1'" in run("score", checkpoint, fasta, "-o", out, "--resume").stderr


def test_resuming_with_another_config_of_the_network_is_refused(checkpoint, fasta, tmp_path, monkeypatch):
    other, out = tmp_path / "other", tmp_path / "out.jsonl"
    save_checkpoint(other, tiny_network(), LazyConfig(StripedHyena2)(**TINY, rotary_scale=2.0))
    for same in ("model.safetensors", "metadata.json"):
        assert ((other / same).read_bytes() == (checkpoint / same).read_bytes()) == (same != "metadata.json")
    with monkeypatch.context() as context:
        break_after(context, 20)
        run("score", checkpoint, fasta, "-o", out)
    result = run("score", other, fasta, "-o", out, "--resume")
    assert result.exit_code == 2
    assert "config is '" in result.stderr
    assert "as in the job to resume, or no --resume" in result.stderr


def test_resuming_variants_on_another_genome_is_refused(checkpoint, tmp_path, monkeypatch):
    genome, table, out = tmp_path / "genome.fa", tmp_path / "in.csv", tmp_path / "out.jsonl"
    genome.write_text(f">c\n{'ACGTTGCAAC' * 6}\n")
    table.write_text("chrom,pos,ref,alt\n" + "".join(f"c,{10 * i + 9},A,T\n" for i in range(6)))
    command = ["variants", checkpoint, table, "-r", genome, "--window", 20, "-o", out]
    with monkeypatch.context() as context:
        break_after(context, 3)
        run(*command)
    genome.with_name("genome.fa.fai").unlink()
    genome.write_text(f">c\n{'GCGTTGCAAC' * 6}\n")
    result = run(*command, "--resume")
    assert result.exit_code == 2
    assert "record 'c:9:A:T' has another sequence than in the job to resume" in result.stderr


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume"]])
def test_a_second_run_to_the_same_output_is_refused_and_the_first_one_completes(checkpoint, fasta, tmp_path, flags):
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    command = ["score", str(checkpoint), str(fasta), "--device", "cpu"]
    done(*command, "-o", whole)
    arguments = [sys.executable, "-m", "subquad.inference", "score", str(checkpoint), "-", "--device", "cpu"]
    first = subprocess.Popen([*arguments, "-o", str(out)], stdin=subprocess.PIPE, text=True)
    text, end = fasta.read_text(), time.monotonic() + 60
    first.stdin.write(text[:400])
    first.stdin.flush()
    while not (tmp_path / "out.jsonl.partial").exists() and time.monotonic() < end:
        time.sleep(0.01)
    second = run(*command, "-o", out, *flags)
    assert second.exit_code == 2
    assert f"--output is '{out}'; accepted: another file, as long as the run that writes to {out}.partial goes on" in (
        second.stderr
    )
    first.communicate(text[400:], timeout=60)
    assert first.returncode == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_progress_tells_tokens_a_second_and_time_to_go_on_stderr(checkpoint, fasta):
    result = done("score", checkpoint, fasta, "--progress")
    assert "50 records" in result.stderr
    assert "tokens/s" in result.stderr
    assert "ETA 0:00:00" in result.stderr
    assert len(lines(result.stdout)) == 50
    piped = done("score", checkpoint, "-", "--progress", stdin=">a\nACGT\n")
    assert "1 records" in piped.stderr
    assert "ETA" not in piped.stderr


def test_memory_does_not_grow_with_the_number_of_sequences(tmp_path):
    options = {"pattern": "S", "hidden_size": 8, "num_heads": 1, "inner_size": 8, "filter_groups": 2, "vocab_size": 256}
    save_checkpoint(tmp_path / "one", StripedHyena2(**options), LazyConfig(StripedHyena2)(**options))
    peaks = []
    for count in (1_000, 10_000):
        source = tmp_path / f"{count}.fa"
        with source.open("w") as file:
            for i in range(count):
                file.write(f">r{i}\nACGTTG\n")
        out = tmp_path / f"{count}.safetensors"
        tracemalloc.start()
        done("score", tmp_path / "one", source, "-o", out, "--batch-size", 32, "--device", "cpu")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 200_000, peaks


def test_the_engine_is_the_one_of_this_source_tree():
    assert "packages/inference/src" in str(inspect.getsourcefile(Engine))
