"""Tests of `subquad plot`."""

import math

import pytest
from matplotlib.image import imread

from packages.inference.tests.commands.running import done, run
from subquad.inference import Engine


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text(">one\nACGTTGCAACTG\n>two\nGATTACA\n")
    return path


@pytest.mark.parametrize("strand", ["forward", "both"])
def test_one_run_draws_pictures_and_writes_a_track(checkpoint, fasta, tmp_path, strand):
    outputs = [tmp_path / name for name in ("track.png", "track.svg", "track.bedgraph")]
    flags = [word for path in outputs for word in ("-o", path)]
    done("plot", checkpoint, fasta, *flags, "--strand", strand, "--first-position", 10, "--device", "cpu")
    assert imread(outputs[0]).size
    assert "</svg>" in outputs[1].read_text()
    rows = [line.split("\t") for line in outputs[2].read_text().splitlines()[1:]]
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    texts = {"one": "ACGTTGCAACTG", "two": "GATTACA"}
    for name, text in texts.items():
        (expected,) = engine.score([text], reduce="none", prepend_eod=True, strand=strand)
        found = [(int(r[1]), float(r[3])) for r in rows if r[0] == name]
        assert [start for start, _ in found] == list(range(10, 10 + len(text)))
        assert [value for _, value in found] == pytest.approx([math.exp(p) for p in expected], rel=1e-5)


def test_records_can_be_chosen(checkpoint, fasta, tmp_path):
    done("plot", checkpoint, fasta, "-o", tmp_path / "x.bedgraph", "--record", "two")
    assert {line.split("\t")[0] for line in (tmp_path / "x.bedgraph").read_text().splitlines()[1:]} == {"two"}


def test_a_record_larger_than_the_memory_is_refused_with_both_numbers(checkpoint, fasta, tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.inference.memory.free_bytes", lambda device: 1 << 16)
    result = run("plot", checkpoint, fasta, "-o", tmp_path / "x.bedgraph")
    assert result.exit_code == 2
    assert "record 'one': 13 tokens need 0.09 MiB for their state, 0.06 MiB are free on cpu" in result.stderr


def test_where_every_record_is_skipped_a_track_is_empty(checkpoint, tmp_path):
    done("plot", checkpoint, "-", "-o", tmp_path / "x.bedgraph", "--non-dna", "skip", stdin=">a\nAX\n")
    assert len((tmp_path / "x.bedgraph").read_text().splitlines()) == 1


def test_an_existing_file_is_replaced_only_when_allowed(checkpoint, fasta, tmp_path):
    out = tmp_path / "x.bedgraph"
    out.write_text("old")
    result = run("plot", checkpoint, fasta, "-o", out)
    assert result.exit_code == 2
    assert out.read_text() == "old"
    done("plot", checkpoint, fasta, "-o", out, "--overwrite")
    assert out.read_text() != "old"
