"""Tests of reading prompts and sequences."""

import errno
import gzip
import io
import os
import sys

import pytest

from subquad.inference.errors import InputFileError
from subquad.inference.sequence_files import Record, dna_only, read_once_only, read_records


def records(tmp_path, content, name="input", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(r.id, r.sequence, r.line) for r in read_records(path, **options)]


def test_fasta_joins_lines_and_takes_the_first_word_as_the_id(tmp_path):
    text = ";comment\n>one the first\nACGT\nAC\n\n>two\r\nTT\r\n"
    assert records(tmp_path, text) == [("one", "ACGTAC", 2), ("two", "TT", 6)]


def test_json_lines_take_sequence_or_prompt_and_number_what_has_no_id(tmp_path):
    text = '{"id": "x", "sequence": "AC"}\n\n{"prompt": "GT"}\n{"id": 7, "sequence": "A"}\n'
    assert records(tmp_path, text) == [("x", "AC", 1), ("1", "GT", 3), ("7", "A", 4)]


@pytest.mark.parametrize(
    ("name", "options"), [("in.txt", {}), ("in.TXT", {}), ("in.txt.gz", {}), ("input", {"file_format": "plain"})]
)
def test_plain_text_is_one_sequence_a_line_in_a_file_that_says_so(tmp_path, name, options):
    text = b"ACGT\n  GG \n\nTT"
    content = gzip.compress(text) if name.endswith(".gz") else text
    assert records(tmp_path, content, name, **options) == [("0", "ACGT", 1), ("1", "GG", 2), ("2", "TT", 4)]


@pytest.mark.parametrize("name", ["in.fa", "prompts", "in.jsonl", "genes.vcf", "txt"])
def test_any_other_text_is_not_taken_for_sequences(tmp_path, name):
    with pytest.raises(InputFileError) as caught:
        records(tmp_path, "\n##fileformat=VCFv4.3\n#CHROM\n", name)
    assert str(caught.value) == (
        f"{tmp_path / name}, line 2: begins with '##fileformat=VCFv4.3'; accepted: FASTA, which begins with '>'; "
        "JSON lines, which begin with '{'; or one sequence a line in a file named .txt or .txt.gz or with "
        "--format plain"
    )


def test_names_and_what_follows_them_may_be_any_text(tmp_path):
    assert records(tmp_path, ">gène β-lactamase\nACGT\n") == [("gène", "ACGT", 1)]
    assert records(tmp_path, '{"id": "gène 1", "sequence": "AC"}\n') == [("gène 1", "AC", 1)]


def test_the_mark_that_windows_puts_before_a_text_is_no_character_of_it(tmp_path):
    assert records(tmp_path, b"\xef\xbb\xbf>a\r\nACGT\r\n") == [("a", "ACGT", 1)]


def test_a_format_can_be_demanded(tmp_path):
    assert records(tmp_path, ">not fasta\n", file_format="plain") == [("0", ">not fasta", 1)]


def test_gzip_shows_in_the_first_bytes_whatever_the_name(tmp_path):
    assert records(tmp_path, gzip.compress(b">a\nACGT\n")) == [("a", "ACGT", 1)]


def test_a_dash_is_the_standard_input(monkeypatch):
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(b">a\nAC\n"))

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert [r.sequence for r in read_records("-")] == ["AC"]
    Stdin.buffer = io.BufferedReader(io.BytesIO(b"ACGT\n"))
    with pytest.raises(InputFileError, match="standard input, line 1: begins with 'ACGT'; accepted: FASTA"):
        list(read_records("-"))
    Stdin.buffer = io.BufferedReader(io.BytesIO(b"ACGT\n"))
    assert [r.sequence for r in read_records("-", file_format="plain")] == ["ACGT"]


@pytest.mark.parametrize(
    ("content", "options", "text"),
    [
        (b"", {}, "the file is empty"),
        (b"\n \n", {}, "the file is empty"),
        (b"ACGT\n", {}, "line 1: begins with 'ACGT'; accepted: FASTA"),
        (b"ACGT\n", {"file_format": "fasta"}, "line 1: FASTA begins with '>', this line with 'ACGT'"),
        (b">a\n>b\nAC\n", {}, "line 1: record 'a' has no sequence"),
        (b">a\nAC\n>\nAC\n", {}, "line 3: the header has no name"),
        (b";only a comment\n", {}, "holds no FASTA record"),
        (b">a\nAC\xe9\n", {}, "line 2: the byte 0xe9 at column 2 is no UTF-8 text"),
        (gzip.compress(b">a\n" + b"ACGT" * 9999)[:-20], {}, "the gzip data is truncated or damaged"),
        (b"\x1f\x8b\x08\x00garbage", {}, "the gzip data is truncated or damaged"),
        (b'{"sequence": "AC"}\n{"sequence"\n', {}, "line 2: not JSON"),
        (b'{"text": "AC"}\n', {}, "line 1: needs an object with a text"),
        (b'{"sequence": ""}\n', {}, "line 1: needs an object with a text"),
        (b'{"id": [1], "sequence": "A"}\n', {}, r"id is \[1\]"),
        (b'{"id": true, "sequence": "A"}\n', {}, "id is True; accepted: a text or an integer"),
        (b'{"id": "\\ud800", "sequence": "A"}\n', {}, "id is .*, which is no Unicode text"),
        (b'{"id": ' + b"9" * 5000 + b', "sequence": "A"}\n', {}, "line 1: not JSON of a sequence: Exceeds the limit"),
        (b'{"a":' * 100_000 + b"\n", {}, "line 1: not JSON of a sequence: maximum recursion depth"),
    ],
)
def test_a_bad_file_is_one_line_with_its_name_and_place(tmp_path, content, options, text):
    with pytest.raises(InputFileError, match=text) as caught:
        records(tmp_path, content, **options)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "input") in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputFileError, match="nowhere: cannot be opened: No such file"):
        list(read_records(tmp_path / "nowhere"))


def test_what_cannot_be_read_on_is_one_line_with_its_place(tmp_path, monkeypatch):
    class Breaking(io.RawIOBase):
        def __init__(self, texts):
            self.texts = texts

        def readable(self):
            return True

        def readinto(self, room):
            if not self.texts:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            text = self.texts.pop(0)
            room[: len(text)] = text
            return len(text)

    class Stdin:
        buffer = None

    monkeypatch.setattr(sys, "stdin", Stdin)
    for texts, where in (([b">a\nACGT\n"], ", line 3"), ([], "")):
        Stdin.buffer = io.BufferedReader(Breaking(texts))
        with pytest.raises(InputFileError, match=f"standard input{where}: cannot be read: Input/output error"):
            list(read_records("-"))


def test_a_pipe_is_told_from_a_file_since_it_can_be_read_once_only(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text(">a\nAC\n")
    names = {"-": True, tmp_path / "pipe": True, tmp_path / "file": False, tmp_path: False, tmp_path / "no": False}
    assert {name: read_once_only(name) for name in names} == names


def test_each_policy_for_other_characters_does_what_it_says():
    record = Record("a", "ACRgtn-", 3)
    assert dna_only(record, "keep", "f") is record
    assert dna_only(record, "skip", "f") is None
    assert dna_only(record, "mask", "f") == Record("a", "ACNgtnN", 3)
    with pytest.raises(InputFileError, match="f, line 3: record 'a' has the character 'R' at position 2"):
        dna_only(record, "error", "f")
    foreign = Record("c", "Aé", 4)
    assert dna_only(foreign, "mask", "f") == Record("c", "AN", 4)
    with pytest.raises(InputFileError, match=r"f, line 4: record 'c' has the character 'é' at position 1; .*: ASCII"):
        dna_only(foreign, "keep", "f")
    for policy in ("error", "mask", "skip", "keep"):  # there is no token for it, even where tags are left alone
        with pytest.raises(InputFileError, match=r"record 'd' has the character 'é' at position 5; accepted: ASCII"):
            dna_only(Record("d", "|d__Bé|ACGT", 5), policy, "f", allow_tags=True)
    clean = Record("b", "ACGTNacgtn", 1)
    assert all(dna_only(clean, policy, "f") is clean for policy in ("error", "mask", "skip", "keep"))
