"""Tests of `subquad score`."""

import gzip

import pytest

from packages.inference.tests.commands.running import done, lines, run
from subquad.inference import Engine


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text("".join(f">r{i}\n{'ACGTTGCA' * (1 + i % 7)}{'ACG'[: i % 4]}\n" for i in range(40)))
    return path


def test_compressed_fasta_gives_sum_mean_and_tokens(checkpoint, tmp_path):
    source = tmp_path / "genome.fa.gz"
    source.write_bytes(gzip.compress(b">a\nACGT\nACG\n>b\nacgtn\n"))
    result = done("score", checkpoint, source, "--per-token", "--prepend-eod", "--strand", "both", "--device", "cpu")
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    expected = engine.score(["ACGTACG", "acgtn"], prepend_eod=True, strand="both")
    rows = lines(result.stdout)
    assert [(row["id"], row["length"], row["scored_tokens"]) for row in rows] == [("a", 7, 7), ("b", 5, 5)]
    assert [row["log_likelihood"] for row in rows] == expected
    for row in rows:
        assert sum(row["logprobs"]) == pytest.approx(row["log_likelihood"])
        assert row["mean_log_likelihood"] == pytest.approx(row["log_likelihood"] / row["length"])
    upper = done("score", checkpoint, source, "--uppercase", "--batch-size", 2, "--device", "cpu")
    scores = [row["log_likelihood"] for row in lines(upper.stdout)]
    assert scores == pytest.approx(engine.score(["ACGTACG", "ACGTN"]), rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "unscored"), [([], 1), (["--prepend-eod"], 0), (["--prepend-eod", "--strand", "both"], 0)]
)
def test_mixed_lengths_in_batches_equal_single_sequences(checkpoint, fasta, flags, unscored):
    single = lines(done("score", checkpoint, fasta, "--per-token", *flags).stdout)
    batched = lines(done("score", checkpoint, fasta, "--per-token", "--batch-size", 8, *flags).stdout)
    assert [row["id"] for row in batched] == [f"r{i}" for i in range(40)]
    for one, many in zip(single, batched, strict=True):
        assert many["log_likelihood"] == pytest.approx(one["log_likelihood"], rel=1e-6)
        assert many["mean_log_likelihood"] == pytest.approx(one["log_likelihood"] / one["scored_tokens"], rel=1e-6)
        assert one["scored_tokens"] == many["scored_tokens"] == one["length"] - unscored == len(one["logprobs"])
        assert many["logprobs"] == pytest.approx(one["logprobs"], rel=1e-5, abs=1e-5)


def test_a_character_or_a_length_is_refused_before_any_work(checkpoint, tmp_path, monkeypatch):
    def no_engine(*_arguments, **_options):
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(Engine, "from_checkpoint", no_engine)
    source, out = tmp_path / "in.fa", tmp_path / "out.jsonl"
    source.write_text(">a\nACGT\n>b\nAXGT\n>c\nTTTT\n")
    failed = run("score", checkpoint, source, "-o", out)
    assert failed.exit_code == 2
    assert "record 'b' has the character 'X' at position 1" in failed.stderr
    source.write_text(f">a\nACGT\n>b\n{'A' * 300}\n")
    failed = run("score", checkpoint, source, "-o", out)
    assert "in.fa: record 'b' has 300 tokens; at most 256 are accepted" in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.fa"]


def test_a_sequence_larger_than_the_memory_is_refused_with_both_numbers(checkpoint, fasta, monkeypatch):
    monkeypatch.setattr("subquad.inference.memory.free_bytes", lambda device: 1 << 16)
    failed = run("score", checkpoint, fasta)
    assert failed.exit_code == 2
    assert "record 'r27': 59 tokens need 0.14 MiB for their state, 0.06 MiB are free on cpu" in failed.stderr


def test_memory_is_asked_for_the_records_that_there_are(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "two.fa").write_text(">a\nACGT\n>b\nACGTT\n")
    monkeypatch.setattr("subquad.inference.memory.free_bytes", lambda device: 1 << 20)
    rows = [lines(done("score", checkpoint, tmp_path / "two.fa", "--batch-size", n).stdout) for n in (2, 2**16)]
    assert rows[0] == rows[1]
    assert run("score", checkpoint, tmp_path / "two.fa", "--batch-size", 2**16 + 1).exit_code == 2


def test_from_the_standard_input_results_before_a_bad_record_are_kept(checkpoint, tmp_path):
    out = tmp_path / "out.jsonl"
    failed = run("score", checkpoint, "-", "-o", out, stdin=">a\nACGT\n>b\nAXGT\n>c\nTTTT\n")
    assert failed.exit_code == 2
    assert "record 'b' has the character 'X' at position 1" in failed.stderr
    assert "1 results are kept in" in failed.stderr
    assert not out.exists()
    done("score", checkpoint, "-", "-o", out, "--resume", stdin=">a\nACGT\n>b\nACGT\n>c\nTTTT\n")
    assert [row["id"] for row in lines(out.read_text())] == ["a", "b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_policy_masks_or_skips_other_characters(checkpoint):
    text = ">a\nACGT\n>b\nAXGT\n"
    masked = lines(done("score", checkpoint, "-", "--non-dna", "mask", stdin=text).stdout)
    assert masked[1]["log_likelihood"] == Engine.from_checkpoint(checkpoint, device="cpu").score(["ANGT"])[0]
    assert len(lines(done("score", checkpoint, "-", "--non-dna", "skip", stdin=text).stdout)) == 1
