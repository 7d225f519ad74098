"""Reads variants from VCF files or tables, and writes a reference and an alternate window around each."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from subquad.inference.errors import InputFileError, InvalidOption
from subquad.inference.reference_genome import ReferenceGenome
from subquad.inference.sequence_files import NonDNA, Record, dna_only, input_name, read_lines

Anchor = Literal["middle", "end", "start"]
VariantFormat = Literal["auto", "vcf", "table"]
_ALLELE = re.compile(r"[ACGTNacgtn]+")
_POSITION = re.compile(r"0*[1-9][0-9]{0,17}", re.ASCII)
_COLUMNS = {
    "contig": ("chrom", "#chrom", "chr", "chromosome", "contig"),
    "position": ("pos", "position"),
    "reference": ("ref", "reference"),
    "alternate": ("alt", "alternate"),
}


@dataclass(frozen=True)
class Variant:
    """One change of a genome.

    Attributes:
      id: ``contig:position:reference:alternate``.
      name: The identifier in the file, or "".
      contig: Name of the contig.
      position: First changed base, counted from 1.
      reference: Bases that the genome has there.
      alternate: Bases that take their place.
      line: The line of the file.
    """

    id: str
    name: str
    contig: str
    position: int
    reference: str
    alternate: str
    line: int


@dataclass(frozen=True)
class Windows:
    """The two sequences that are compared.

    Attributes:
      start, stop: The window in the genome, from 0, stop excluded.
      reference: Its bases.
      alternate: The same with the variant in it.
    """

    start: int
    stop: int
    reference: str
    alternate: str


@dataclass(frozen=True)
class VariantRecord(Record):
    """A variant with its windows, as a record of the longer one."""

    variant: Variant
    windows: Windows


@dataclass(frozen=True)
class VariantWindows:
    """How windows around variants are cut; see `windows_of` and `dna_only`."""

    genome: ReferenceGenome
    where: str
    size: int
    anchor: Anchor
    uppercase: bool
    policy: NonDNA

    def records(self, variants: Iterable[Variant]) -> Iterator[VariantRecord]:
        """Yields each variant with its windows, those that the policy skips left out.

        Raises:
          InputFileError: A variant does not fit the genome, or a character is refused.
          InvalidOption: A reference allele does not fit into the window.
        """
        for variant in variants:
            cut = windows_of(
                variant, self.genome, size=self.size, anchor=self.anchor, uppercase=self.uppercase, where=self.where
            )
            place = f"the window of {variant.id[:60]} in {self.genome.path}"
            texts = (cut.reference, cut.alternate)
            kept = [dna_only(Record(place, text, variant.line), self.policy, self.where) for text in texts]
            if kept[0] is not None and kept[1] is not None:
                reference, alternate = kept[0].sequence, kept[1].sequence
                chosen = Windows(cut.start, cut.stop, reference, alternate)
                yield VariantRecord(variant.id, max(reference, alternate, key=len), variant.line, variant, chosen)


def read_variants(
    path: str | Path, *, file_format: VariantFormat = "auto", symbolic: Literal["error", "skip"] = "error"
) -> Iterator[Variant]:
    """Yields the variants of a VCF file or of a table with a header line, gzip or not; ``-`` is the standard input.

    Args:
      path: The file. A table has the columns chrom, pos, ref and alt, and may have id; tab or comma between them.
      file_format: ``"vcf"``, ``"table"``, or ``"auto"``: a file that begins with ``##`` or ``#CHROM`` is VCF.
      symbolic: What to do about an allele that is not bases (``<DEL>``, ``*``, breakends): ``"error"`` or ``"skip"``.
        A missing alternate, ``.``, is no variant and left out.

    Raises:
      InputFileError: The file cannot be read, or a line is no variant; names it.
    """
    name = input_name(path)
    lines = read_lines(path)
    number, first = next(lines, (0, ""))
    if not number:
        raise InputFileError(name, "the file is empty; accepted: VCF, or a table with chrom, pos, ref and alt")
    if file_format == "auto":
        file_format = "vcf" if first.startswith(("##", "#CHROM")) else "table"
    while file_format == "vcf" and first.startswith("##"):
        number, first = next(lines, (number, ""))
    separator = "," if file_format == "table" and "\t" not in first else "\t"
    place = _places(first, separator, name, number)
    for number, line in lines:
        fields = line.split(separator)
        if len(fields) <= max(place.values()):
            raise InputFileError(
                name, f"has {len(fields)} fields; the header has {max(place.values()) + 1}", line=number
            )
        yield from _variants(fields, place, name, number, symbolic)


def _places(header: str, separator: str, name: str, number: int) -> dict[str, int]:
    """Returns the column of each field."""
    titles = [title.strip().lower() for title in header.split(separator)]
    place = {}
    for field, accepted in _COLUMNS.items():
        found = [i for i, title in enumerate(titles) if title in accepted]
        if not found:
            problem = (
                f"the header {header[:40]!r} names no column {' or '.join(accepted)}; "
                "accepted: chrom, pos, ref and alt, with tabs or commas between them"
            )
            raise InputFileError(name, problem, line=number or None)
        place[field] = found[0]
    return place | ({"name": titles.index("id")} if "id" in titles else {})


def _variants(fields: list[str], place: dict[str, int], name: str, number: int, symbolic: str) -> Iterator[Variant]:
    contig, reference = fields[place["contig"]].strip(), fields[place["reference"]].strip()
    text = fields[place["position"]].strip()
    if not _POSITION.fullmatch(text):
        raise InputFileError(name, f"position is {text[:40]!r}; accepted: an integer from 1", line=number)
    identifier = fields[place["name"]].strip() if "name" in place else ""
    for alternate in fields[place["alternate"]].strip().split(","):
        if alternate in (".", ""):
            continue
        for what, allele in (("reference", reference), ("alternate", alternate)):
            if not _ALLELE.fullmatch(allele):
                if symbolic == "skip":
                    break
                problem = f"the {what} allele is {allele[:40]!r}; accepted: bases A C G T N, or --symbolic skip"
                raise InputFileError(name, problem, line=number)
        else:
            key = f"{contig}:{int(text)}:{reference}:{alternate}"
            known = "" if identifier == "." else identifier
            yield Variant(key, known, contig, int(text), reference, alternate, number)


def windows_of(
    variant: Variant, genome: ReferenceGenome, *, size: int, anchor: Anchor, uppercase: bool, where: str
) -> Windows:
    """Returns the windows around a variant, after comparing its reference allele with the genome.

    Args:
      variant: The variant.
      genome: The genome.
      size: Bases of the reference window; near the ends of a contig the window moves inward, and a contig that is
        shorter is taken whole.
      anchor: Where in its window the variant lies: ``"middle"``, ``"end"`` (all else upstream) or ``"start"``.
      uppercase: Change all letters to upper case.
      where: Name of the variant file, for errors.

    Raises:
      InputFileError: The genome has no such contig or position, or other bases there.
      InvalidOption: The reference allele does not fit into the window.
    """
    length = genome.length(variant.contig)
    if length is None:
        known = ", ".join(genome.contigs[:5]) + (", …" if len(genome.contigs) > 5 else "")
        problem = f"contig {variant.contig!r} is not in {genome.path}, which has {known}"
        raise InputFileError(where, problem, line=variant.line)
    begin, end = variant.position - 1, variant.position - 1 + len(variant.reference)
    if end > length:
        problem = f"{variant.contig}:{variant.position} ends at base {end}; the contig has {length}"
        raise InputFileError(where, problem, line=variant.line)
    found = genome.bases(variant.contig, begin, end)
    if found.upper() != variant.reference.upper():
        problem = (
            f"the reference allele of {variant.contig}:{variant.position} is {variant.reference[:40]!r}, "
            f"{genome.path} has {found[:40]!r} there; use the assembly that the variants were called on"
        )
        raise InputFileError(where, problem, line=variant.line)
    if end - begin > size:
        raise InvalidOption("--window", size, f"at least {end - begin}, the reference allele of {variant.id[:60]}")
    start = {"middle": (begin + end - size) // 2, "end": end - size, "start": begin}[anchor]
    start = max(0, min(start, length - size))
    stop = min(length, start + size)
    before, after = genome.bases(variant.contig, start, begin), genome.bases(variant.contig, end, stop)
    pair = (before + found + after, before + variant.alternate + after)
    reference, alternate = (text.upper() if uppercase else text for text in pair)
    return Windows(start, stop, reference, alternate)
