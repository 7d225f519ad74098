"""Tests of the command line."""

import gzip
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import Engine, GenerationOptions, save_checkpoint
from subquad.inference.commands import register
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(path, tiny_network(), LazyConfig(StripedHyena2)(**TINY), metadata={"max_sequence_tokens": 256})
    return path


def run(*arguments, stdin=None):
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_generate_writes_one_line_for_each_prompt_in_order(checkpoint, tmp_path):
    options = GenerationOptions(max_new_tokens=6, temperature=0.8, seed=3, return_logprobs=True)
    expected = Engine.from_checkpoint(checkpoint, device="cpu").generate(["ACGT", "|d__B|A"], options)
    arguments = ["--max-new-tokens", 6, "--temperature", 0.8, "--seed", 3, "--logprobs", "--device", "cpu"]
    result = run("generate", checkpoint, "-p", "ACGT", "-p", "|d__B|A", *arguments)
    assert result.exit_code == 0, result.output
    rows = lines(result.stdout)
    assert [row["ids"] for row in rows] == [g.ids for g in expected]
    assert [row["logprobs"] for row in rows] == [g.logprobs for g in expected]
    assert [row["prompt"] for row in rows] == ["ACGT", "|d__B|A"]
    assert {row["seed"] for row in rows} == {3}
    source = tmp_path / "prompts.jsonl"
    source.write_text('{"id": "x", "prompt": "ACGT"}\n{"id": "y", "prompt": "|d__B|A"}\n')
    run("generate", checkpoint, "-i", source, "-o", tmp_path / "out.jsonl", *arguments)
    assert [row["ids"] for row in lines((tmp_path / "out.jsonl").read_text())] == [g.ids for g in expected]


def test_score_reads_compressed_fasta_and_writes_sum_mean_and_tokens(checkpoint, tmp_path):
    source = tmp_path / "genome.fa.gz"
    source.write_bytes(gzip.compress(b">a\nACGT\nACG\n>b\nacgtn\n"))
    result = run("score", checkpoint, source, "--per-token", "--prepend-eod", "--strand", "both", "--device", "cpu")
    assert result.exit_code == 0, result.output
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    expected = engine.score(["ACGTACG", "acgtn"], prepend_eod=True, strand="both")
    rows = lines(result.stdout)
    assert [(row["id"], row["length"], row["scored_tokens"]) for row in rows] == [("a", 7, 7), ("b", 5, 5)]
    assert [row["log_likelihood"] for row in rows] == expected
    for row in rows:
        assert sum(row["logprobs"]) == pytest.approx(row["log_likelihood"])
        assert row["mean_log_likelihood"] == pytest.approx(row["log_likelihood"] / row["length"])
    upper = run("score", checkpoint, source, "--uppercase", "--batch-size", 2, "--device", "cpu")
    assert [r["log_likelihood"] for r in lines(upper.stdout)] == pytest.approx(
        engine.score(["ACGTACG", "ACGTN"]), rel=1e-6
    )


def test_an_interrupted_job_keeps_its_results_and_resumes(checkpoint, tmp_path):
    source, out = tmp_path / "in.fa", tmp_path / "out.jsonl"
    source.write_text(">a\nACGT\n>b\nAXGT\n>c\nTTTT\n")
    failed = run("score", checkpoint, source, "-o", out)
    assert failed.exit_code == 2
    assert "record 'b' has the character 'X' at position 1" in failed.stderr
    assert not out.exists()
    source.write_text(">a\nACGT\n>b\nACGT\n>c\nTTTT\n")
    assert run("score", checkpoint, source, "-o", out, "--resume").exit_code == 0
    assert [row["id"] for row in lines(out.read_text())] == ["a", "b", "c"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.fa", "out.jsonl"]


def test_resuming_with_another_input_is_refused(checkpoint, tmp_path):
    source, out = tmp_path / "in.fa", tmp_path / "out.jsonl"
    source.write_text(">a\nACGT\n>b\nAXGT\n")
    run("score", checkpoint, source, "-o", out)
    source.write_text(">z\nACGT\n>b\nACGT\n")
    result = run("score", checkpoint, source, "-o", out, "--resume")
    assert result.exit_code == 2
    assert "the input has changed" in result.stderr


def test_info_describes_a_checkpoint_as_a_table_or_as_json(checkpoint):
    assert "StripedHyena2" in run("info", checkpoint).stdout
    described = json.loads(run("info", checkpoint, "--json", "--verify").stdout)
    assert (described["max_sequence_tokens"], described["verified"]) == (256, True)
    assert "pattern: SDH*SDH*" in described["config"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["score", "CKPT", "nowhere.fa"], "nowhere.fa: cannot be opened"),
        (["score", "nowhere", "-"], "nowhere does not exist"),
        (["score", "CKPT", "-", "--strand", "both", "--per-token"], "set prepend_eod"),
        (["score", "CKPT", "-", "--resume"], "only together with --output"),
        (["score", "CKPT", "-", "--device", "abacus"], "device is 'abacus'"),
        (["score", "CKPT", "-", "--dtype", "int3"], "dtype is 'int3'"),
        (["generate", "CKPT"], "exactly one of them"),
        (["generate", "CKPT", "-p", "A", "-i", "-"], "exactly one of them"),
        (["generate", "CKPT", "-p", "Aé"], "has the character 'é'"),
        (["generate", "CKPT", "-p", "A" * 300], "300 tokens; at most 255"),
        (["generate", "CKPT", "-p", "A", "--temperature", "-1"], "temperature is -1.0; accepted"),
        (["generate", "CKPT", "-p", "A", "--top-p", "0"], "top_p is 0.0; accepted"),
        (["generate", "CKPT", "-p", "A", "--max-new-tokens", "0"], "max_new_tokens is 0; accepted"),
        (["generate", "CKPT", "-p", "AXG", "--non-dna", "error"], "the character 'X' at position 1"),
        (["info", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_status_2(checkpoint, arguments, text):
    result = run(*[str(checkpoint) if a == "CKPT" else a for a in arguments], stdin=">a\nACGT\n")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_traceback_is_shown_only_when_asked_for(checkpoint):
    result = run("info", "nowhere", "--traceback")
    assert type(result.exception).__name__ == "CheckpointNotFound"


def test_progress_goes_to_stderr(checkpoint):
    result = run("score", checkpoint, "-", "--progress", stdin=">a\nACGT\n")
    assert "1 records" in result.stderr
    assert len(lines(result.stdout)) == 1


def test_the_help_is_shown_without_loading_torch():
    code = "import sys, typer; from subquad.inference.commands import register; register(typer.Typer()); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_package_runs_as_a_module(checkpoint):
    command = [sys.executable, "-m", "subquad.inference", "info", str(checkpoint), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert json.loads(done.stdout)["format"] == "subquad-checkpoint"
