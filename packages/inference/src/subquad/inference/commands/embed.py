"""`subquad embed`: activations of named layers."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.settings import (
    FP8,
    BatchSize,
    Checkpoint,
    Chunk,
    Device,
    Dtype,
    Format,
    FP8Choice,
    InputFormat,
    NonDNAPolicy,
    Output,
    OutputFormat,
    Overwrite,
    Progress,
    ResultsFormat,
    Resume,
    SubquadraticOps,
    TensorParallel,
    Traceback,
    Weights,
    WeightsChoice,
)

if TYPE_CHECKING:
    from subquad.inference.engine import Engine
    from subquad.inference.sequence_files import Record


class PoolingChoice(StrEnum):
    """How positions become one vector."""

    mean = "mean"
    last = "last"
    max = "max"
    none = "none"


def embed(
    checkpoint: Checkpoint,
    input_file: Annotated[
        Path, typer.Argument(metavar="INPUT", help="FASTA, JSON lines or one sequence a line (.gz too); - is stdin.")
    ],
    layer: Annotated[
        list[str],
        typer.Option(
            "--layer", "-l", help="blocks.N, N negative from the end, or a module inside, e.g. blocks.3.mlp.l3; repeat."
        ),
    ],
    output: Output = None,
    output_format: ResultsFormat = OutputFormat.auto,
    pooling: Annotated[
        PoolingChoice, typer.Option(help="Over the tokens; none gives one vector for each.")
    ] = PoolingChoice.mean,
    prepend_eod: Annotated[
        bool, typer.Option("--prepend-eod", help="Read the end-of-document token first; it gets no vector.")
    ] = False,
    batch_size: BatchSize = 1,
    file_format: Format = InputFormat.auto,
    non_dna: Annotated[NonDNAPolicy, typer.Option(help="On characters other than ACGTN.")] = NonDNAPolicy.error,
    uppercase: Annotated[bool, typer.Option("--uppercase", help="Change sequences to upper case.")] = False,
    prefill_chunk: Chunk = None,
    use_subquadratic_ops: SubquadraticOps = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    fp8_projections: FP8 = FP8Choice.auto,
    weights: Weights = WeightsChoice.stored,
    tensor_parallel: TensorParallel = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Embed DNA sequences: activations of layers, float32, pooled or for each token; one row a sequence, in order."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import (
            GROUP_BATCHES,
            Destination,
            EngineChoice,
            Load,
            opened_input,
            run_batches,
        )
        from subquad.inference.result_formats import ColumnKind

        kind: ColumnKind = "matrix" if pooling == "none" else "vector"
        columns: dict[str, ColumnKind] = {"id": "text", "length": "integer", **dict.fromkeys(layer, kind)}
        settings = {
            "--layer": layer,
            "--pooling": pooling.value,
            "--prepend-eod": prepend_eod,
            "--batch-size": batch_size,
            "--non-dna": non_dna.value,
            "--uppercase": uppercase,
        }

        group_size = 1 if batch_size == 1 else GROUP_BATCHES * batch_size

        def work(engine: "Engine", group: "list[Record]") -> "Iterator[tuple[dict[str, Any], int]]":
            found = engine.embed(
                [record.sequence for record in group],
                layer,
                pooling=pooling.value,
                prepend_eod=prepend_eod,
                batch_size=batch_size,
                names=[f"{input_file}: record {record.id!r}" for record in group],
            )
            for record, values in zip(group, found, strict=True):
                size = len(record.sequence)
                yield {"id": record.id, "length": size} | {k: v.numpy() for k, v in values.items()}, size

        run_batches(
            "embed",
            opened_input(input_file, file_format.value),
            Reading(str(input_file), non_dna.value, uppercase),
            EngineChoice(
                checkpoint,
                device,
                dtype,
                prefill_chunk,
                use_subquadratic_ops=use_subquadratic_ops,
                fp8_projections=fp8_projections.value,
                weights=weights.value,
                tensor_parallel=tensor_parallel,
            ),
            Destination(output, output_format.value, overwrite, resume, columns, settings),
            Load(group=group_size, multiple=group_size, rows=batch_size, room=int(prepend_eod)),
            work,
            show=progress,
        )
