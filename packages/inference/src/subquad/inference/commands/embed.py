"""`subquad embed`: activations of named layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.option_groups import chosen_flags, with_options
from subquad.inference.commands.settings import (
    BatchSize,
    Checkpoint,
    EngineOptions,
    Progress,
    ReadingOptions,
    ResultOptions,
    SequenceInput,
    Traceback,
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


@dataclass(frozen=True)
class EmbedOptions:
    """What is taken from the network."""

    layer: Annotated[
        list[str],
        typer.Option(
            "--layer", "-l", help="blocks.N, N negative from the end, or a module inside, e.g. blocks.3.mlp.l3; repeat."
        ),
    ]
    pooling: Annotated[PoolingChoice, typer.Option(help="Over the tokens; none gives one vector for each.")] = (
        PoolingChoice.mean
    )
    prepend_eod: Annotated[
        bool, typer.Option("--prepend-eod", help="Read the end-of-document token first; it gets no vector.")
    ] = False
    batch_size: BatchSize = 1


@with_options
def embed(
    checkpoint: Checkpoint,
    input_file: SequenceInput,
    options: EmbedOptions,
    results: ResultOptions,
    reading: ReadingOptions,
    engine_options: EngineOptions,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Embed DNA sequences: activations of layers, float32, pooled or for each token; one row a sequence, in order."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import (
            Destination,
            EngineChoice,
            Load,
            opened_input,
            run_batches,
        )
        from subquad.inference.result_formats import ColumnKind
        from subquad.inference.sequence_files import input_name

        kind: ColumnKind = "matrix" if options.pooling == "none" else "vector"
        columns: dict[str, ColumnKind] = {"id": "text", "length": "integer", **dict.fromkeys(options.layer, kind)}

        where = input_name(input_file)

        def work(engine: "Engine", group: "list[Record]") -> "Iterator[tuple[dict[str, Any], int]]":
            found = engine.embed_each(
                [record.sequence for record in group],
                options.layer,
                pooling=options.pooling.value,
                prepend_eod=options.prepend_eod,
                batch_size=options.batch_size,
                names=[f"{where}: record {record.id!r}" for record in group],
            )
            for record, values in zip(group, found, strict=True):
                size = len(record.sequence)
                yield {"id": record.id, "length": size} | {k: v.numpy() for k, v in values.items()}, size

        run_batches(
            "embed",
            opened_input(input_file, reading.file_format.value),
            Reading(where, reading.non_dna.value, reading.uppercase),
            EngineChoice(checkpoint, engine_options),
            Destination(results, columns, chosen_flags(options, reading), [input_file]),
            Load.of_batches(options.batch_size, room=int(options.prepend_eod)),
            work,
            show=progress,
        )
