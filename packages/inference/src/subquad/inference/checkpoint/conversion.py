"""Conversion of checkpoints between formats: any that can be read into any that can be written."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from subquad.inference.checkpoint.files import check_new_directory, check_new_file
from subquad.inference.checkpoint.fp8_option import plain_config
from subquad.inference.checkpoint.fp8_projections import without_scales
from subquad.inference.checkpoint.mbridge import open_mbridge
from subquad.inference.checkpoint.native import write_checkpoint
from subquad.inference.checkpoint.report import SAME, MappedTensor, joined
from subquad.inference.checkpoint.savanna import open_savanna, write_savanna
from subquad.inference.checkpoint.source import TensorSource, open_native
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.checkpoint.summary import METADATA_FILE
from subquad.inference.checkpoint.vortex import open_vortex, write_vortex
from subquad.inference.checkpoint.vortex_settings import check_settings, vortex_settings, write_settings
from subquad.inference.errors import CheckpointConfigError, InvalidOption
from subquad.inference.unfinished import replaced_file
from subquad.lazy_config import Config

ReadFormat = Literal["native", "vortex", "savanna", "mbridge"]
WriteFormat = Literal["native", "vortex", "savanna"]
Advance = Callable[[int, int], None]


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    read: ReadFormat,
    write: WriteFormat,
    config: Config[Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    tokenizer: str = "byte",
    without_fp8: bool = False,
    overwrite: bool = False,
    on_progress: Advance | None = None,
) -> list[MappedTensor]:
    """Makes a checkpoint of another format. Every tensor is memory-mapped or read in turn, and written in turn.

    Args:
      source: A native directory, a ``.pt`` file (or the first of its parts, or the name without ``.part0``), or a
        Megatron-Bridge directory.
      target: The directory or file to make; it appears complete or not at all. Beside a Vortex file ``NAME.pt`` lies
        ``NAME.yml``, the reference engine's configuration; one of the same network is left as it is.
      read: The format of ``source``.
      write: The format of ``target``.
      config: The network, see `vortex_config`; None for a native ``source``, which says it itself.
      metadata: More fields for the metadata of a native target, e.g. ``max_sequence_tokens``.
      tokenizer: Of a native target: ``"byte"`` or ``"nucleotide"``.
      without_fp8: Make a network of plain projections, whatever the source and the config say.
      overwrite: Replace an existing target.
      on_progress: Called with the bytes written so far and those to be written.

    Returns:
      What became of each tensor.

    Raises:
      InvalidOption: The formats are the same or unknown, or ``config`` is missing or not wanted.
      CheckpointExists: ``target``, or another configuration beside it, exists and may not be replaced.
      CheckpointNotFound: ``source`` or a part of it is not there.
      CheckpointError: It is no checkpoint, or would run code; it is not read then.
      CheckpointTensorError: A tensor does not fit the config, or FP8 scales are missing.
    """
    check_conversion(Path(target), read=read, write=write, overwrite=overwrite, source=Path(source))
    _check_config(read, config)
    target = Path(target)
    if without_fp8 and config is not None:
        config = plain_config(config)
    with _opened(Path(source), target, read, config) as opened:
        if without_fp8:
            opened = without_scales(opened)
        opened = replace(opened, metadata={**opened.metadata, **(metadata or {})})
        if on_progress is not None:
            opened = _counted(opened, on_progress)
        if write == "native":
            return _write_native(target, opened, tokenizer=tokenizer, overwrite=overwrite)
        settings = _settings_beside(target, opened, overwrite=overwrite) if write == "vortex" else None
        with replaced_file(target) as partial:
            mapped = (write_vortex if write == "vortex" else write_savanna)(partial, opened)
            check_new_file(target, overwrite=overwrite)  # it may have come into being meanwhile
        if settings is not None:
            write_settings(target, settings)
        return mapped


def _settings_beside(target: Path, source: TensorSource, *, overwrite: bool) -> dict[str, Any] | None:
    """Returns the configuration to write beside a Vortex file; None where one lies there or the engine has none."""
    longest = source.metadata.get("max_sequence_tokens")
    try:
        settings = vortex_settings(source.config, name=target.stem, longest=longest)
    except CheckpointConfigError:  # tensors of a network that it does not have are written all the same
        return None
    return settings if check_settings(target, settings, overwrite=overwrite) else None


def _opened(
    source: Path, target: Path, read: ReadFormat, config: Config[Any] | None
) -> AbstractContextManager[TensorSource]:
    if config is None:
        return open_native(source)
    if read == "mbridge":
        return open_mbridge(source, config)
    scratch = target.absolute().parent
    opener = open_vortex if read == "vortex" else open_savanna
    return opener(source, config, scratch=scratch)


def _write_native(target: Path, source: TensorSource, *, tokenizer: str, overwrite: bool) -> list[MappedTensor]:
    network = source.network
    facts = {
        "dtype": str(source.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "filter_parameters": network.filter_parameters,
    }
    entries = list(source.entries.values())
    write_checkpoint(
        target, source.config, entries, facts, metadata=source.metadata, tokenizer=tokenizer, overwrite=overwrite
    )
    return joined(source.report, [MappedTensor(name, name, SAME) for name in source.entries])


def check_conversion(
    target: Path, *, read: str, write: str, overwrite: bool = False, source: Path | None = None
) -> None:
    """Checks what is known of a conversion before its source is there.

    Args:
      target: See `convert_checkpoint`, as for the formats and ``overwrite``.
      read: The format of the source.
      write: The format of the target.
      overwrite: Replace an existing target.
      source: The source, where it is there, which the target must not be.

    Raises:
      InvalidOption: The formats are the same or unknown.
      CheckpointExists: ``target`` exists and may not be replaced.
    """
    for field, value, formats in (("read", read, get_args(ReadFormat)), ("write", write, get_args(WriteFormat))):
        if value not in formats:
            raise InvalidOption(field, value, "one of " + ", ".join(formats))
    if read == write:
        raise InvalidOption("read and write", read, "two different formats")
    if write == "native":
        check_new_directory(target, overwrite=overwrite, marker=METADATA_FILE)
    else:
        check_new_file(target, overwrite=overwrite, source=source)


def _check_config(read: str, config: Config[Any] | None) -> None:
    if (config is None) != (read == "native"):
        accepted = "None for a native source, which holds its own" if read == "native" else "a config of the network"
        raise InvalidOption("config", config, accepted)


def _counted(source: TensorSource, on_progress: Advance) -> TensorSource:
    """Reports an entry when the next one is asked for."""
    total = sum(entry.nbytes for entry in source.entries.values())
    done = 0

    def counted(entry: TensorEntry) -> TensorEntry:
        def produce() -> Any:
            nonlocal done
            tensor = entry.produce()
            done = min(done + entry.nbytes, total)
            on_progress(done, total)
            return tensor

        return entry._replace(produce=produce)

    return replace(source, entries={name: counted(entry) for name, entry in source.entries.items()})
