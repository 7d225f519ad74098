"""Two small public genomes that ship with the package; `provenance.json` holds accession, source and sha256."""

import json
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent


class Provenance(NamedTuple):
    """Where a shipped genome comes from; `sha256` is that of the file, `sequence_sha256` of its bases alone."""

    accession: str
    title: str
    bases: int
    file: str
    sha256: str
    sequence_sha256: str
    source: str
    licence: str


def provenance() -> list[Provenance]:
    """Lists the shipped genomes with accession, number of bases, source, licence and checksums."""
    return [Provenance(**entry) for entry in json.loads((_FOLDER / "provenance.json").read_text("ascii"))]


def lambda_phage() -> Path:
    """Returns the FASTA file of phage lambda, NC_001416.1: 48,502 bases, linear."""
    return _FOLDER / "NC_001416.1.fasta"


def phix174() -> Path:
    """Returns the FASTA file of phage phiX174, NC_001422.1 (INSDC J02482.1): 5,386 bases, circular."""
    return _FOLDER / "NC_001422.1.fasta"
