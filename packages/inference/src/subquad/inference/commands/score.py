"""`subquad score`: log-likelihoods of sequences."""

from collections.abc import Iterator
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
    PrependEOD,
    Progress,
    ResultsFormat,
    Resume,
    StrandChoice,
    SubquadraticOps,
    TensorParallel,
    Traceback,
    Weights,
    WeightsChoice,
)

if TYPE_CHECKING:
    from subquad.inference.engine import Engine
    from subquad.inference.result_formats import Columns
    from subquad.inference.scoring import Score
    from subquad.inference.sequence_files import Record


def score(
    checkpoint: Checkpoint,
    input_file: Annotated[
        Path, typer.Argument(metavar="INPUT", help="FASTA, JSON lines or one sequence a line (.gz too); - is stdin.")
    ],
    output: Output = None,
    output_format: ResultsFormat = OutputFormat.auto,
    strand: Annotated[
        StrandChoice, typer.Option(help="both averages with the reverse complement.")
    ] = StrandChoice.forward,
    prepend_eod: PrependEOD = False,
    per_token: Annotated[bool, typer.Option("--per-token", help="Add the log-probability of each token.")] = False,
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
    """Score DNA sequences: log-likelihood in nats and its mean over the scored tokens, in order.

    Without --prepend-eod the first token is not scored.
    """
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
        from subquad.inference.scoring import check_strand

        check_strand(strand.value, per_token=per_token, prepend_eod=prepend_eod)
        settings = {
            "--strand": strand.value,
            "--prepend-eod": prepend_eod,
            "--per-token": per_token,
            "--batch-size": batch_size,
            "--non-dna": non_dna.value,
            "--uppercase": uppercase,
        }

        group_size = 1 if batch_size == 1 else GROUP_BATCHES * batch_size

        def work(engine: "Engine", group: "list[Record]") -> "Iterator[tuple[dict[str, Any], int]]":
            scores = engine.score_details(
                [record.sequence for record in group],
                prepend_eod=prepend_eod,
                strand=strand.value,
                keep_logprobs=per_token,
                batch_size=batch_size,
                names=[f"{input_file}: record {record.id!r}" for record in group],
            )
            for record, result in zip(group, scores, strict=True):
                yield _row(record, result), len(record.sequence) * strands

        strands = 2 if strand == "both" else 1
        run_batches(
            "score",
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
            Destination(output, output_format.value, overwrite, resume, _columns(per_token=per_token), settings),
            Load(group=group_size, multiple=group_size, rows=batch_size, room=int(prepend_eod), weight=strands),
            work,
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
