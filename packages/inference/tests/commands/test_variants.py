"""Tests of `subquad variants`."""

import json
import os
import random
import threading

import pytest

from packages.inference.tests.commands.running import done, lines, run
from subquad.inference import Engine

BASES = "".join(random.Random(0).choice("ACGT") for _ in range(150)) + "acgtR" + "A" * 45
VCF = "##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(">chr1\n" + "".join(f"{BASES[i : i + 60]}\n" for i in range(0, len(BASES), 60)))
    return path


def vcf_line(position, change=lambda base: "ACGT"["ACGT".index(base) - 1], size=1):
    base = BASES[position - 1 : position - 1 + size]
    return f"chr1\t{position}\t.\t{base}\t{change(base)}\t.\t.\t.\n"


@pytest.mark.parametrize("strand", ["forward", "both"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_delta_is_alternate_minus_reference_window(checkpoint, genome, tmp_path, strand, batch_size):
    source = tmp_path / "v.vcf"
    insertion = vcf_line(90, lambda base: base + "GG")
    deletion = vcf_line(100, lambda bases: bases[0], size=4)
    source.write_text(VCF + vcf_line(5) + vcf_line(80) + insertion + deletion)
    flags = ["--window", 40, "--strand", strand, "--batch-size", batch_size, "--device", "cpu"]
    rows = lines(done("variants", checkpoint, source, "-r", genome, *flags).stdout)
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    assert [(row["window_start"], row["window_stop"]) for row in rows] == [(0, 40), (59, 99), (69, 109), (81, 121)]
    for row in rows:
        start, stop, at = row["window_start"], row["window_stop"], row["position"] - 1
        alternate = BASES[start:at] + row["alternate"] + BASES[at + len(row["reference"]) : stop]
        expected = engine.score([BASES[start:stop], alternate], strand=strand)
        assert row["reference_log_likelihood"] == pytest.approx(expected[0], rel=1e-6)
        assert row["alternate_log_likelihood"] == pytest.approx(expected[1], rel=1e-6)
        assert row["delta_log_likelihood"] == row["alternate_log_likelihood"] - row["reference_log_likelihood"]
    assert rows[1]["delta_log_likelihood"] != 0


def test_a_reference_mismatch_is_found_before_any_work(checkpoint, genome, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "from_checkpoint", None)
    source = tmp_path / "v.vcf"
    wrong = "ACGT"["ACGT".index(BASES[79]) - 2]
    source.write_text(f"{VCF}{vcf_line(5)}chr1\t80\t.\t{wrong}\tA\t.\t.\t.\n")
    result = run("variants", checkpoint, source, "-r", genome, "--window", 40, "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert f"v.vcf, line 4: the reference allele of chr1:80 is '{wrong}'" in result.stderr
    assert f"has '{BASES[79]}' there; use the assembly that the variants were called on" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_soft_masked_and_ambiguous_bases_follow_their_flags(checkpoint, genome, tmp_path):
    source = tmp_path / "v.tsv"
    source.write_text("chrom\tpos\tref\talt\nchr1\t152\tC\tT\n")
    arguments = ["variants", checkpoint, source, "-r", genome, "--window", 6, "--anchor", "end"]
    folded = lines(done(*arguments).stdout)
    kept = lines(done(*arguments, "--keep-case").stdout)
    assert folded[0]["reference_log_likelihood"] != kept[0]["reference_log_likelihood"]
    wide = [*arguments[:-2], "--window", 12]
    result = run(*wide)
    assert result.exit_code == 2
    assert "has the character 'R'" in result.stderr
    assert len(lines(done(*wide, "--non-dna", "mask").stdout)) == 1
    assert lines(done(*wide, "--non-dna", "skip").stdout) == []


def test_windows_longer_than_the_network_takes_are_refused(checkpoint, tmp_path):
    genome, source = tmp_path / "long.fa", tmp_path / "v.tsv"
    genome.write_text(f">c\n{'ACGT' * 100}\n")
    source.write_text("chrom,pos,ref,alt\nc,200,T,C\n")
    result = run("variants", checkpoint, source, "-r", genome)
    assert result.exit_code == 2
    assert "record 'c:200:T:C' has 400 tokens; at most 256 are accepted" in result.stderr


def test_variants_come_through_a_pipe_and_a_genome_does_not(checkpoint, genome, tmp_path):
    """As in ``subquad variants … <(bcftools view …)``, which can be read once only."""
    text = VCF + vcf_line(5) + vcf_line(80)
    (tmp_path / "v.vcf").write_text(text)
    os.mkfifo(tmp_path / "pipe")
    flags = ["-r", genome, "--window", 20, "--device", "cpu"]
    expected = lines(done("variants", checkpoint, tmp_path / "v.vcf", *flags).stdout)
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=[text], daemon=True)
    writer.start()
    assert lines(done("variants", checkpoint, tmp_path / "pipe", *flags).stdout) == expected
    writer.join(timeout=60)
    refused = run("variants", checkpoint, tmp_path / "v.vcf", "-r", tmp_path / "pipe")
    assert refused.exit_code == 2
    assert "pipe: is no file but a pipe, and positions in it cannot be found" in refused.stderr


def test_results_can_be_a_file_and_resumed(checkpoint, genome, tmp_path, monkeypatch):
    from subquad.inference.result_journal import Journal

    source, whole, out = tmp_path / "v.vcf", tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    source.write_text(VCF + "".join(vcf_line(position) for position in range(20, 60)))
    arguments = ["variants", checkpoint, source, "-r", genome, "--window", 32, "--prepend-eod"]
    done(*arguments, "-o", whole)
    original = Journal.write

    def write(self, row):
        if self.count == 17:
            raise RuntimeError("power cut")
        original(self, row)

    with monkeypatch.context() as context:
        context.setattr(Journal, "write", write)
        assert run(*arguments, "-o", out).exit_code == 1
    done(*arguments, "-o", out, "--resume")
    assert out.read_bytes() == whole.read_bytes()
    assert json.loads(out.read_text().splitlines()[0])["id"].startswith("chr1:20:")
