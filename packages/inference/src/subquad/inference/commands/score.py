"""`subquad score`: log-likelihoods of sequences."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.option_groups import chosen_flags, with_options
from subquad.inference.commands.settings import (
    BatchSize,
    Checkpoint,
    EngineOptions,
    PrependEOD,
    Progress,
    ReadingOptions,
    ResultOptions,
    SequenceInput,
    Strand,
    StrandChoice,
    Traceback,
)

if TYPE_CHECKING:
    from subquad.inference.engine import Engine
    from subquad.inference.result_formats import Columns
    from subquad.inference.scoring import Score
    from subquad.inference.sequence_files import Record


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored."""

    strand: Strand = StrandChoice.forward
    prepend_eod: PrependEOD = False
    per_token: Annotated[bool, typer.Option("--per-token", help="Add the log-probability of each token.")] = False
    batch_size: BatchSize = 1


@with_options
def score(
    checkpoint: Checkpoint,
    input_file: SequenceInput,
    results: ResultOptions,
    options: ScoreOptions,
    reading: ReadingOptions,
    engine_options: EngineOptions,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Score DNA sequences: log-likelihood in nats and its mean over the scored tokens, in order.

    Without --prepend-eod the first token is not scored.
    """
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import (
            Destination,
            EngineChoice,
            Load,
            opened_input,
            run_batches,
        )
        from subquad.inference.scoring import check_strand, strand_inputs
        from subquad.inference.sequence_files import input_name

        check_strand(options.strand.value, per_token=options.per_token, prepend_eod=options.prepend_eod)

        where = input_name(input_file)

        def work(engine: "Engine", group: "list[Record]") -> "Iterator[tuple[dict[str, Any], int]]":
            scores = engine.score_each(
                [record.sequence for record in group],
                prepend_eod=options.prepend_eod,
                strand=options.strand.value,
                keep_logprobs=options.per_token,
                batch_size=options.batch_size,
                names=[f"{where}: record {record.id!r}" for record in group],
            )
            for record, result in zip(group, scores, strict=True):
                yield _row(record, result), len(record.sequence) * strands

        def check(record: "Record") -> None:
            strand = options.strand.value if reading.non_dna == "keep" else "forward"  # all else has a complement
            prepend = 0 if options.prepend_eod else None
            strand_inputs(
                record.sequence.encode(), prepend=prepend, strand=strand, field=f"{where}: record {record.id!r}"
            )

        strands = 2 if options.strand == "both" else 1
        run_batches(
            "score",
            opened_input(input_file, reading.file_format.value),
            Reading(where, reading.non_dna.value, reading.uppercase),
            EngineChoice(checkpoint, engine_options),
            Destination(results, _columns(per_token=options.per_token), chosen_flags(options, reading), [input_file]),
            Load.of_batches(options.batch_size, room=int(options.prepend_eod), weight=strands),
            work,
            check=check,
            show=progress,
        )


def _columns(*, per_token: bool) -> "Columns":
    return {
        "id": "text",
        "length": "integer",
        "log_likelihood": "number",
        "mean_log_likelihood": "number",
        "scored_tokens": "integer",
        **({"logprobs": "numbers"} if per_token else {}),  # type: ignore[dict-item]
    }


def _row(record: "Record", result: "Score") -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": record.id,
        "length": len(record.sequence),
        "log_likelihood": result.log_likelihood,
        "mean_log_likelihood": result.mean,
        "scored_tokens": result.scored_tokens,
    }
    if result.logprobs is not None:
        row["logprobs"] = result.logprobs
    return row
