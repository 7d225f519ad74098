"""`subquad convert`: checkpoints of other makers to ours and back."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subquad.inference.commands.byte_progress import shown_bytes
from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.settings import Overwrite, Progress, Traceback

if TYPE_CHECKING:
    from subquad.inference.checkpoint import MappedTensor


class ReadableFormat(StrEnum):
    """Formats that can be read."""

    native = "native"
    vortex = "vortex"
    savanna = "savanna"
    mbridge = "mbridge"


class WritableFormat(StrEnum):
    """Formats that can be written."""

    native = "native"
    vortex = "vortex"
    savanna = "savanna"


class TokenizerName(StrEnum):
    """Tokenizers that a native checkpoint may name."""

    byte = "byte"
    nucleotide = "nucleotide"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A native directory; a Vortex or Savanna .pt file, its first .part0, or the name without .part0; a "
            "Megatron-Bridge directory; or hf:ORG/NAME[@REV], a repository of a Hugging Face hub.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A native directory, or a .pt file.")],
    read: Annotated[ReadableFormat, typer.Option("--from", help="Format of IN.")],
    write: Annotated[WritableFormat, typer.Option("--to", help="Format of OUT.")],
    config: Annotated[
        str | None,
        typer.Option(
            help="Unless IN is native: a Vortex YAML file, a native checkpoint of the same network, or a size such as "
            "1b_base, 7b or 40b. A Megatron-Bridge directory that describes its network needs none."
        ),
    ] = None,
    tokenizer: Annotated[
        TokenizerName | None,
        typer.Option(help="Of a native OUT; the two differ beyond ASCII only. Default: byte.", show_default=False),
    ] = None,
    without_fp8: Annotated[
        bool,
        typer.Option(
            "--without-fp8", help="Make plain projections, with or without FP8 scales; 1b, 20b and 40b predict worse."
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Write what became of each tensor here, as JSON lines; replaced where it exists."),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print what became of each tensor.")] = False,
    overwrite: Overwrite = False,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Convert a checkpoint; memory-mapped, without running code of the file, written at once or not at all."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.checkpoint import convert_checkpoint, fetch_checkpoint, hub_address, source_config
        from subquad.inference.checkpoint.conversion import check_conversion
        from subquad.inference.errors import InvalidOption
        from subquad.inference.result_files import check_output
        from subquad.inference.unfinished import replaced_file

        path, origin = Path(source), {}
        if tokenizer is not None and write != "native":
            raise InvalidOption("--tokenizer", tokenizer.value, "only for --to native; other formats name none")
        if report is not None:
            check_output(report, overwrite=True, inputs=[path, target], flag="--report")
        if (address := hub_address(source)) is not None:
            check_conversion(target, read=read.value, write=write.value, overwrite=overwrite)
            if read != "mbridge" or config is not None:  # it may describe its network itself
                source_config(path, read.value, config)
            path, where = fetch_checkpoint(address, read=read.value, target=target)
            origin = {"converted_from": where}
        tree, metadata = source_config(path, read.value, config)
        with shown_bytes(f"{read.value} to {write.value}", show=progress) as advance:
            mapped = convert_checkpoint(
                path,
                target,
                read=read.value,
                write=write.value,
                config=tree,
                metadata={**metadata, **origin},
                tokenizer=(tokenizer or TokenizerName.byte).value,
                without_fp8=without_fp8,
                overwrite=overwrite,
                on_progress=advance,
            )
        if report is not None:
            with replaced_file(report) as partial:
                partial.write_text("".join(json.dumps(row._asdict()) + "\n" for row in mapped), encoding="utf-8")
        if table:
            _print_table(mapped)
        _print_summary(mapped, every=not table)


def _print_summary(mapped: Sequence["MappedTensor"], *, every: bool) -> None:
    same = sum(row.how == "same" for row in mapped)
    left = sum(row.target is None for row in mapped)
    typer.echo(f"{same} tensors as they are, {len(mapped) - same - left} changed, {left} left out", err=True)
    if lossy := sum("lossy" in row.how for row in mapped):
        typer.echo(f"{lossy} were changed in a way that cannot be undone exactly", err=True)
    for row in mapped if every else ():
        if row.how != "same":
            typer.echo(f"  {row.source} -> {row.target or 'nothing'}: {row.how}", err=True)


def _print_table(mapped: Sequence["MappedTensor"]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    rows = Table(*(Column(title, overflow="fold") for title in ("from", "to", "how")))
    for row in mapped:
        rows.add_row(row.source, row.target or "-", row.how)
    Console().print(rows, markup=False)
