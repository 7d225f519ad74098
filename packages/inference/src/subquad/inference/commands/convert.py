"""`subquad convert`: checkpoints of other makers to ours and back."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.settings import Overwrite, Traceback


class CheckpointFormat(StrEnum):
    """Formats that can be read and written."""

    native = "native"
    vortex = "vortex"


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A Vortex .pt file (or its .part0), or a native directory.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A native directory, or a Vortex .pt file.")],
    read: Annotated[CheckpointFormat, typer.Option("--from", help="Format of IN.")],
    write: Annotated[CheckpointFormat, typer.Option("--to", help="Format of OUT.")],
    config: Annotated[
        str | None, typer.Option(help="For a Vortex IN: its YAML file, or a size such as 1b_base, 7b or 40b.")
    ] = None,
    drop_fp8_scales: Annotated[
        bool, typer.Option("--drop-fp8-scales", help="Leave out scales of FP8 projections; 1b, 20b and 40b lose by it.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write what became of each tensor here, as JSON lines.")] = None,
    overwrite: Overwrite = False,
    traceback: Traceback = False,
) -> None:
    """Convert a checkpoint; memory-mapped, without running code of the file, written at once or not at all."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.checkpoint import export_vortex, import_vortex, vortex_config
        from subquad.inference.checkpoint.files import replaced_file
        from subquad.inference.errors import InvalidOption

        if read == write:
            raise InvalidOption("--from and --to", read.value, "two different formats")
        if write == "vortex":
            if config is not None or drop_fp8_scales:
                raise InvalidOption("--config and --drop-fp8-scales", config, "only together with --from vortex")
            mapped = export_vortex(source, target, overwrite=overwrite)
        else:
            if config is None:
                raise InvalidOption("--config", None, "a Vortex YAML file or a size such as 1b_base, 7b or 40b")
            tree, metadata = vortex_config(config)
            mapped = import_vortex(
                source, target, tree, metadata=metadata, drop_fp8_scales=drop_fp8_scales, overwrite=overwrite
            )
        if report is not None:
            with replaced_file(report) as partial:
                partial.write_text("".join(json.dumps(row._asdict()) + "\n" for row in mapped), encoding="ascii")
        same = sum(row.how == "same" for row in mapped)
        left = [row for row in mapped if row.target is None]
        typer.echo(
            f"{same} tensors as they are, {len(mapped) - same - len(left)} changed, {len(left)} left out", err=True
        )
        for row in mapped:
            if row.how != "same":
                typer.echo(f"  {row.source} -> {row.target or 'nothing'}: {row.how}", err=True)
