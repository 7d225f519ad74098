"""Tests of reading variants and cutting windows around them."""

import gzip
import os

import pytest

from subquad.inference.errors import InputFileError, InvalidOption
from subquad.inference.reference_genome import ReferenceGenome
from subquad.inference.variant_files import Variant, read_variants, windows_of

VCF = "##fileformat=VCFv4.3\n##source=test\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
CONTIG = "ACGTACGTAATTGGCCacgtNACGT"


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(f">one of two\n{CONTIG[:10]}\n{CONTIG[10:20]}\n{CONTIG[20:]}\n>two\nGGGG\n")
    opened = ReferenceGenome(path)
    yield opened
    opened.close()


def variant(position, reference, alternate, contig="one"):
    return Variant("x", "", contig, position, reference, alternate, 7)


def cut(genome, *change, **options):
    arguments = {"size": 8, "anchor": "middle", "uppercase": True, "where": "v.vcf"} | options
    return windows_of(variant(*change), genome, **arguments)


def test_a_vcf_file_gives_one_variant_for_each_alternate(tmp_path):
    path = tmp_path / "v.vcf.gz"
    path.write_bytes(gzip.compress(f"{VCF}one\t3\trs1\tG\tA,GT\t.\tPASS\t.\ntwo\t1\t.\tGG\t.\t.\t.\t.\n".encode()))
    found = list(read_variants(path))
    assert [(v.id, v.name, v.position, v.line) for v in found] == [
        ("one:3:G:A", "rs1", 3, 4),
        ("one:3:G:GT", "rs1", 3, 4),
    ]


@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_table_needs_four_columns_in_any_order(tmp_path, separator):
    path = tmp_path / "v.txt"
    table = [["alt", "Pos", "other", "REF", "chrom"], ["T", "3", "-", "G", "one"]]
    path.write_text("".join(separator.join(row) + "\n" for row in table))
    assert [v.id for v in read_variants(path)] == ["one:3:G:T"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty; accepted: VCF, or a table"),
        ("chrom\tpos\tref\n", "line 1: the header .* names no column alt or alternate"),
        (f"{VCF}one\t0\t.\tG\tA\n", "line 4: position is '0'; accepted: an integer from 1"),
        (f"{VCF}one\t²\t.\tG\tA\n", "line 4: position is '²'; accepted: an integer from 1"),
        (f"{VCF}one\t{'9' * 5000}\t.\tG\tA\n", "line 4: position is '9{40}'; accepted: an integer from 1"),
        (f"{VCF}one\t3\t.\tG\n", "line 4: has 4 fields; the header has 5"),
        (f"{VCF}one\t3\t.\tG\t<DEL>\n", "line 4: the alternate allele is '<DEL>'; accepted: bases A C G T N"),
        (f"{VCF}one\t3\t.\tR\tA\n", "line 4: the reference allele is 'R'"),
    ],
)
def test_a_line_that_is_no_variant_is_named(tmp_path, text, problem):
    path = tmp_path / "v.vcf"
    path.write_text(text)
    with pytest.raises(InputFileError, match=problem.replace("(", r"\(")):
        list(read_variants(path))


@pytest.mark.parametrize(
    "text",
    [
        "chrom\tpos\tref\talt\tid\none\t3\tG\tT\t\n",  # the last field is empty
        "\tchrom\tpos\tref\talt\n0\tone\t3\tG\tT\n",  # the first title is, as pandas writes an index
        "chrom\tpos\tref\talt\r\none\t3\tG\tT\r\n",
    ],
)
def test_empty_fields_keep_their_place(tmp_path, text):
    path = tmp_path / "v.tsv"
    path.write_text(text)
    assert [v.id for v in read_variants(path)] == ["one:3:G:T"]


def test_what_a_vcf_says_beside_the_variants_may_be_any_text(tmp_path):
    path = tmp_path / "v.vcf"
    path.write_text(f"##source=Sjögren\n{VCF}one\t3\t.\tG\tA\t.\t.\tCLNDN=Sjögren-Larsson\n", encoding="utf-8")
    assert [v.id for v in read_variants(path)] == ["one:3:G:A"]


def test_alleles_that_are_not_bases_can_be_skipped(tmp_path):
    path = tmp_path / "v.vcf"
    path.write_text(f"{VCF}one\t3\t.\tG\t*,A\n")
    assert [v.id for v in read_variants(path, symbolic="skip")] == ["one:3:G:A"]


def test_the_variant_lies_in_the_middle_at_the_end_or_at_the_start(genome):
    middle = cut(genome, 11, "T", "C")
    assert (middle.start, middle.stop) == (6, 14)
    assert middle.reference == CONTIG[6:14]
    assert middle.alternate == CONTIG[6:10] + "C" + CONTIG[11:14]
    end = cut(genome, 11, "TT", "C", anchor="end")
    assert (end.start, end.stop, end.alternate) == (4, 12, CONTIG[4:10] + "C")
    start = cut(genome, 11, "T", "TGG", anchor="start")
    assert (start.start, start.stop, start.alternate) == (10, 18, ("TGG" + CONTIG[11:18]).upper())


def test_near_the_ends_of_a_contig_the_window_moves_inward(genome):
    assert (cut(genome, 1, "A", "C").start, cut(genome, 1, "A", "C").stop) == (0, 8)
    last = len(CONTIG)
    assert (cut(genome, last, "T", "C").start, cut(genome, last, "T", "C").stop) == (last - 8, last)
    short = cut(genome, 2, "G", "A", "two")
    assert (short.start, short.stop, short.alternate) == (0, 4, "GAGG")


def test_case_is_folded_only_where_asked(genome):
    assert cut(genome, 17, "A", "t", uppercase=False).alternate == CONTIG[12:16] + "t" + CONTIG[17:20]
    assert cut(genome, 17, "A", "t").alternate == (CONTIG[12:16] + "T" + CONTIG[17:20]).upper()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ((3, "T", "A"), "v.vcf, line 7: the reference allele of one:3 is 'T', .*genome.fa has 'G' there"),
        ((25, "TA", "A"), "one:25 ends at base 26; the contig has 25"),
        ((1, "A", "C", "chr1"), "contig 'chr1' is not in .*genome.fa, which has one, two"),
    ],
)
def test_a_variant_that_does_not_fit_the_genome_is_an_error(genome, change, problem):
    with pytest.raises(InputFileError, match=problem):
        cut(genome, *change)


def test_an_allele_longer_than_the_window_is_refused(genome):
    with pytest.raises(InvalidOption, match="--window is 4; accepted: at least 5"):
        cut(genome, 1, "ACGTA", "A", size=4)


def test_a_reference_that_cannot_be_indexed_is_refused(tmp_path):
    path = tmp_path / "genome.fa"
    for content, problem in [
        (gzip.compress(b">a\nACGT\n"), "is compressed"),
        (b"ACGT\n", "FASTA begins with '>'"),
        (b"", "the file is empty"),
        (b">a\nACGT\nAC\nACGT\n", "cannot be indexed"),
        (b">a\nACGT\n\n\n", "cannot be indexed: its lines are not of one length; accepted: such lines"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputFileError, match=problem):
            ReferenceGenome(path)


def test_in_a_folder_that_cannot_be_written_the_index_is_made_elsewhere(tmp_path, monkeypatch):
    path = tmp_path / "genome.fa"
    path.write_text(">a\nACGT\n")
    monkeypatch.setattr(os, "access", lambda *_: False)
    opened = ReferenceGenome(path)
    assert opened.bases("a", 1, 3) == "CG"
    assert opened.bases("a", 2, 2) == ""
    opened.close()
    assert [p.name for p in tmp_path.iterdir()] == ["genome.fa"]


@pytest.mark.parametrize(
    "left",
    ["one\t25\t12\t10\t11\n", "garbage", "", "one\t9999\t12\t10\t11\ntwo\t4\t45\t4\t5\n", "one\t25\t12\n"],
    ids=["cut", "garbage", "empty", "of another genome", "cut in a line"],
)
def test_an_index_that_does_not_describe_the_whole_genome_is_made_anew(tmp_path, genome, left):
    index = genome.path.with_name("genome.fa.fai")
    whole = index.read_text()
    index.write_text(left)
    opened = ReferenceGenome(genome.path)
    assert (opened.length("one"), opened.length("two"), opened.bases("two", 1, 3)) == (25, 4, "GG")
    opened.close()
    assert index.read_text() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genome.fa", "genome.fa.fai"]


def test_a_good_index_is_used_as_it_is(genome):
    index = genome.path.with_name("genome.fa.fai")
    index.write_text(index.read_text().replace("two", "zwei"))
    opened = ReferenceGenome(genome.path)
    assert opened.contigs == ["one", "zwei"]
    opened.close()


def test_a_genome_from_the_future_is_indexed_once(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(">a\nACGT\n\n")
    os.utime(path, (4e9, 4e9))
    for _ in range(2):
        opened = ReferenceGenome(path)
        assert opened.bases("a", 0, 4) == "ACGT"
        opened.close()
        made = path.with_name("genome.fa.fai").stat()
        assert made.st_mtime == 4e9
