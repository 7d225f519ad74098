"""Reading FASTA: what is accepted, and one clear line for everything that is not."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from subquad.recipes.data import iterate_fasta, read_fasta, reverse_complement
from subquad.recipes.errors import (
    BadCharacterError,
    EmptyFastaError,
    FastaError,
    MissingFileError,
    NonAsciiError,
    NonUtf8Error,
    NotFastaError,
    RecipeError,
    TruncatedGzipError,
)

TEXT = b">one first record\nACGT\nacgtn\n\n>two\r\nRYSW\r\n"


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return tmp_path / "genome.fa"


def test_plain_and_gzip_files_give_the_same_records(fasta: Path, tmp_path: Path):
    fasta.write_bytes(TEXT)
    packed = tmp_path / "named_without_suffix"
    packed.write_bytes(gzip.compress(TEXT))
    for path in (fasta, packed):
        first, second = read_fasta(path)
        assert (first.name, first.description, bytes(first.sequence)) == ("one", "first record", b"ACGTACGTN")
        assert (second.name, second.description, bytes(second.sequence)) == ("two", "", b"RYSW")
        assert first.sequence.dtype == np.uint8


def test_titles_are_any_utf8(fasta: Path):
    for mark in (b"", b"\xef\xbb\xbf"):
        fasta.write_bytes(mark + ">\u5927\u8178\u83cc \u00e9tude n\u00ba 1\nACGT\n>b\nAC\n".encode())
        first, second = read_fasta(fasta)
        assert (first.name, first.description) == ("\u5927\u8178\u83cc", "\u00e9tude n\u00ba 1")
        assert (bytes(first.sequence), second.name) == (b"ACGT", "b")


def test_lower_case_is_kept_on_request(fasta: Path):
    fasta.write_bytes(TEXT)
    assert bytes(read_fasta(fasta, upper=False)[0].sequence) == b"ACGTacgtn"


def test_bgzip_blocks_are_read_as_one_file(fasta: Path):
    fasta.write_bytes(gzip.compress(TEXT[:20]) + gzip.compress(TEXT[20:]))
    assert [len(record.sequence) for record in read_fasta(fasta)] == [9, 4]


def test_records_come_one_by_one(fasta: Path):
    fasta.write_bytes(b">a\nACGT\n>b\nAC!T\n")
    records = iterate_fasta(fasta)
    assert next(records).name == "a"
    with pytest.raises(BadCharacterError):
        next(records)


@pytest.mark.parametrize(
    ("content", "error", "parts"),
    [
        (b"", EmptyFastaError, ["the file is empty", "at least one record"]),
        (b"\n\n", EmptyFastaError, ["the file is empty"]),
        (b">a\n>b\nACGT\n", EmptyFastaError, ["line 1", "'a' has no sequence"]),
        (b">a\nACGT\n>b\n", EmptyFastaError, ["line 3", "'b' has no sequence"]),
        (b"\nACGT\n", NotFastaError, ["line 2", "not FASTA", "'ACGT'", "'>' line"]),
        (b">a\nAC\nAC-T\n", BadCharacterError, ["line 3", "'-'", "ABCDGHKMNRSTVWY"]),
        (b">a\nACGU\n", BadCharacterError, ["line 2", "'U'"]),
        (">a\nAC\u00e9T\n".encode(), NonAsciiError, ["line 2", "0xc3"]),
        (b">a\nAC\n>caf\xe9 x\nACGT\n", NonUtf8Error, ["line 3", "byte 0xe9 at column 5", "a title in UTF-8"]),
        (b">\xff\xfea\nACGT\n", NonUtf8Error, ["line 1", "byte 0xff at column 2"]),
        ("\u00e9\nACGT\n".encode(), NotFastaError, ["line 1", "the first line is '\u00e9'"]),
        (b"\xff\xfe\nACGT\n", NotFastaError, ["line 1", "not FASTA"]),
        (gzip.compress(b">a\n" + b"ACGT\n" * 999)[:-20], TruncatedGzipError, ["truncated", "complete gzip file"]),
        (gzip.compress(b">a\nACGT\n")[:6], TruncatedGzipError, ["truncated"]),
        (gzip.compress(b">a\nACGT\n")[:12] + b"\xff" * 20, TruncatedGzipError, ["damaged"]),
    ],
)
def test_a_bad_file_is_refused_with_file_line_and_what_is_accepted(
    fasta: Path, content: bytes, error: type[FastaError], parts: list[str]
):
    fasta.write_bytes(content)
    with pytest.raises(error) as caught:
        read_fasta(fasta)
    assert isinstance(caught.value, RecipeError)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in [str(fasta), *parts]), message


def test_a_missing_file_and_a_folder_are_refused_by_name(fasta: Path, tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"genome\.fa: no such FASTA file"):
        read_fasta(fasta)
    with pytest.raises(NotFastaError, match="is a folder"):
        read_fasta(tmp_path)


def test_the_accepted_letters_can_be_chosen(fasta: Path):
    fasta.write_bytes(b">a\nACGU@\n")
    assert bytes(read_fasta(fasta, accepted="ACGU@")[0].sequence) == b"ACGU@"


def test_the_reverse_complement_of_the_reverse_complement_is_the_sequence():
    sequence = np.frombuffer(b"ACGTRYSWKMBDHVNacgtn", dtype=np.uint8)
    assert bytes(reverse_complement(sequence)) == b"nacgtNBDHVKMWSRYACGT"
    assert np.array_equal(reverse_complement(reverse_complement(sequence)), sequence)
