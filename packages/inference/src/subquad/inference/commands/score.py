"""`subquad score`: log-likelihoods of sequences."""

from pathlib import Path
from typing import Annotated

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.settings import (
    Checkpoint,
    Chunk,
    Device,
    Dtype,
    Format,
    InputFormat,
    NonDNAPolicy,
    Output,
    Overwrite,
    Progress,
    Resume,
    StrandChoice,
    Traceback,
)


def score(
    checkpoint: Checkpoint,
    input_file: Annotated[
        Path, typer.Argument(metavar="INPUT", help="FASTA, JSON lines or one sequence a line (.gz too); - is stdin.")
    ],
    output: Output = None,
    strand: Annotated[
        StrandChoice, typer.Option(help="both averages with the reverse complement.")
    ] = StrandChoice.forward,
    prepend_eod: Annotated[
        bool,
        typer.Option("--prepend-eod", help="Start from the end-of-document token, so that the first base is scored."),
    ] = False,
    per_token: Annotated[bool, typer.Option("--per-token", help="Add the log-probability of each token.")] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Sequences read side by side; 1 makes scores bitwise independent of each other.")
    ] = 1,
    file_format: Format = InputFormat.auto,
    non_dna: Annotated[NonDNAPolicy, typer.Option(help="On characters other than ACGTN.")] = NonDNAPolicy.error,
    uppercase: Annotated[bool, typer.Option("--uppercase", help="Change sequences to upper case.")] = False,
    prefill_chunk: Chunk = 2048,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Score DNA sequences: log-likelihood in nats and its mean over the scored tokens; one JSON line each, in order."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import groups, wanted_records
        from subquad.inference.commands.progress import shown_progress
        from subquad.inference.engine import Engine
        from subquad.inference.result_files import opened_results
        from subquad.inference.scoring import check_strand
        from subquad.inference.sequence_files import read_records

        check_strand(strand.value, per_token=per_token, prepend_eod=prepend_eod)
        records = read_records(input_file, file_format=file_format.value)
        with opened_results(output, overwrite=overwrite, resume=resume) as results:
            wanted = wanted_records(
                records, policy=non_dna.value, uppercase=uppercase, kept=results.kept, where=str(input_file)
            )
            engine = Engine.from_checkpoint(checkpoint, device=device, dtype=dtype, prefill_chunk=prefill_chunk)
            with shown_progress("score", show=progress) as advance:
                for group in groups(wanted, batch_size if batch_size == 1 else 16 * batch_size):
                    scores = engine.score_details(
                        [record.sequence for record in group],
                        prepend_eod=prepend_eod,
                        strand=strand.value,
                        keep_logprobs=per_token,
                        batch_size=batch_size,
                        names=[f"{input_file}: record {record.id!r}" for record in group],
                    )
                    for record, result in zip(group, scores, strict=True):
                        row = {
                            "id": record.id,
                            "length": len(record.sequence),
                            "log_likelihood": result.log_likelihood,
                            "mean_log_likelihood": result.mean,
                            "scored_tokens": result.scored_tokens,
                        }
                        if result.logprobs is not None:
                            row["logprobs"] = result.logprobs
                        results.write(row)
                        advance(records=1, tokens=result.scored_tokens)
