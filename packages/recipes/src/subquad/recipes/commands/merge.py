"""`subquad merge`: an adapter and its base in, a plain checkpoint out."""

from pathlib import Path
from typing import Annotated

import typer

from subquad.recipes.commands.failures import failures_in_one_line


def merge(
    adapter: Annotated[Path, typer.Argument(help="What a run with lora.rank wrote, adapter.safetensors.")],
    output: Annotated[Path, typer.Argument(help="The native checkpoint to write; a new folder.")],
    base: Annotated[
        Path | None, typer.Option(help="The checkpoint that was fine-tuned, where it is not in its old place.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="Type of the sums, such as bfloat16; auto takes that of the base, for 16-bit ones float32."),
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint at OUTPUT.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
) -> None:
    """Add the corrections of a LoRA run to the weights of its base; generate, score and serve read the result."""
    with failures_in_one_line(traceback=traceback):
        from subquad.recipes.finetuning import merge_adapter

        merge_adapter(adapter, output, base=base, dtype=dtype, overwrite=overwrite)
    typer.echo(f"merged into {output}")
