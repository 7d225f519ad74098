"""The genomes that ship with the package are what their accession says."""

import hashlib
from pathlib import Path

import pytest

from subquad.recipes.data import read_fasta
from subquad.recipes.data.genomes import Provenance, lambda_phage, phix174, provenance


@pytest.mark.parametrize("entry", provenance(), ids=lambda entry: entry.accession)
def test_file_and_sequence_have_the_recorded_checksums(entry: Provenance):
    path = lambda_phage().parent / entry.file
    (record,) = read_fasta(path)
    assert record.name == entry.accession
    assert len(record.sequence) == entry.bases
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    assert hashlib.sha256(bytes(record.sequence)).hexdigest() == entry.sequence_sha256
    assert entry.source
    assert entry.licence


@pytest.mark.parametrize(
    ("path", "bases", "start"), [(lambda_phage(), 48_502, b"GGGCGGCGACCTCGCG"), (phix174(), 5_386, b"GAGTTTTATCGCTTCC")]
)
def test_the_genomes_begin_as_published(path: Path, bases: int, start: bytes):
    (record,) = read_fasta(path)
    assert len(record.sequence) == bases
    assert bytes(record.sequence[:16]) == start
    assert set(bytes(record.sequence)) == set(b"ACGT")
