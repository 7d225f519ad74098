"""What a checkpoint says of itself, read and checked without loading a weight."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.inference.checkpoint.files import sha256_of
from subquad.inference.errors import (
    CheckpointConfigError,
    CheckpointHashMismatch,
    CheckpointNotFound,
    InvalidOption,
)
from subquad.inference.tokenizer import TOKENIZERS, ByteTokenizer, NucleotideTokenizer, tokenizer_of

CONFIG_FILE = "config.yaml"
METADATA_FILE = "metadata.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FORMAT = "subquad-checkpoint"
FORMAT_VERSION = 1
RESERVED = (
    "format",
    "format_version",
    "versions",
    "dtype",
    "parameters",
    "filter_parameters",
    "tokenizer",
    "files",
    "weights_sha256",
)
TRAVELLING = ("max_sequence_tokens",)
_KINDS: dict[str, type] = {
    "format": str,
    "format_version": int,
    "dtype": str,
    "filter_parameters": str,
    "tokenizer": dict,
    "files": dict,
    "weights_sha256": str,
}
_LONGEST_NAME = 255  # bytes, of any file system
_COUNTS = ("parameters", "max_sequence_tokens")


@dataclass(frozen=True)
class CheckpointSummary:
    """The metadata of a checkpoint directory.

    Attributes:
      path: The directory.
      metadata: The whole of ``metadata.json``.
      config_text: The whole of ``config.yaml``.
    """

    path: Path
    metadata: dict[str, Any]
    config_text: str

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The files that hold tensors, in order."""
        return tuple(sorted(name for name in self.metadata["files"] if name.endswith(".safetensors")))

    @property
    def tokenizer(self) -> ByteTokenizer | NucleotideTokenizer:
        """The tokenizer that is named in the metadata.

        Raises:
          CheckpointConfigError: It is not a known one.
        """
        described = self.metadata["tokenizer"]
        name, size = described.get("name"), described.get("vocab_size")
        if not (isinstance(name, str) and name in TOKENIZERS and isinstance(size, int)):
            names = " or ".join(repr(known) for known in TOKENIZERS)
            raise CheckpointConfigError(
                f"{self.path / METADATA_FILE}: tokenizer is {described!r}; "
                f"accepted: name {names}, an integer vocab_size"
            )
        try:
            return tokenizer_of(name, size)
        except InvalidOption as error:
            raise CheckpointConfigError(f"{self.path / METADATA_FILE}: tokenizer: {error}") from None

    def verify_hashes(self) -> None:
        """Reads every file and compares its digest.

        Raises:
          CheckpointHashMismatch: A file is not the one that was saved.
        """
        for name, described in self.metadata["files"].items():
            found = sha256_of(self.path / name)
            if found != described["sha256"]:
                raise CheckpointHashMismatch(
                    f"{self.path / name} has the sha256 {found}, {METADATA_FILE} says {described['sha256']}; "
                    "the file was damaged or exchanged, fetch it again"
                )


def read_summary(path: str | Path) -> CheckpointSummary:
    """Reads the metadata and the config text of a native checkpoint, and checks that its files are there.

    Raises:
      CheckpointNotFound: There is no such directory, or a file of it is missing.
      CheckpointConfigError: The metadata is damaged or of an unknown version.
      CheckpointHashMismatch: A file has another size than was written down.
    """
    path = Path(path)
    if not path.is_dir():
        what = "is no directory" if path.exists() else "does not exist"
        raise CheckpointNotFound(f"{path} {what}; a checkpoint is a directory with {METADATA_FILE}")
    metadata = _read_metadata(path / METADATA_FILE)
    for name, described in metadata["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointNotFound(f"{file} is missing; {METADATA_FILE} lists it")
        if file.stat().st_size != described["bytes"]:
            raise CheckpointHashMismatch(
                f"{file} has {file.stat().st_size} bytes, {METADATA_FILE} says {described['bytes']}; "
                "the file is truncated or was exchanged"
            )
    for name in (CONFIG_FILE, *(() if INDEX_FILE in metadata["files"] else (WEIGHTS_FILE,))):
        if name not in metadata["files"]:
            raise CheckpointConfigError(f"{path / METADATA_FILE}: files does not list {name}")
    try:
        text = (path / CONFIG_FILE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointConfigError(f"{path / CONFIG_FILE} is not UTF-8 text: {error}") from None
    return CheckpointSummary(path, metadata, text)


def _read_metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointNotFound(
            f"{path} is missing; a native checkpoint has {METADATA_FILE}, {CONFIG_FILE} and weights"
        )
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers without end, brackets without end
        raise CheckpointConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointConfigError(f"{path}: format is not {FORMAT!r}")
    for field, kind in _KINDS.items():
        if not isinstance(metadata.get(field), kind):
            raise CheckpointConfigError(f"{path}: {field} is {metadata.get(field)!r}; accepted: {kind.__name__}")
    if metadata["format_version"] != FORMAT_VERSION:
        raise CheckpointConfigError(
            f"{path}: format_version is {metadata['format_version']}; this version reads {FORMAT_VERSION}"
        )
    check_counts(str(path), metadata)
    for name, described in metadata["files"].items():
        _check_file_entry(path, name, described)
    return metadata


def check_counts(where: str, metadata: Mapping[str, Any]) -> None:
    """Checks the fields that count something, where they are there.

    Raises:
      CheckpointConfigError: One is no integer, 1 or more.
    """
    for field in _COUNTS:
        value = metadata.get(field, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 63:
            raise CheckpointConfigError(
                f"{where}: {field} is {value!r}; accepted: an integer, 1 or more, or no such field"
            )


def _check_file_entry(path: Path, name: str, described: object) -> None:
    plain = name.isprintable() and Path(name).name == name and name not in ("", ".", "..")
    if not plain or len(name.encode()) > _LONGEST_NAME:
        raise CheckpointConfigError(f"{path}: files lists {name[:80]!r}; accepted: names without a folder")
    if not isinstance(described, Mapping) or not (
        isinstance(described.get("bytes"), int) and isinstance(described.get("sha256"), str)
    ):
        raise CheckpointConfigError(f"{path}: files[{name!r}] needs the fields bytes and sha256")
