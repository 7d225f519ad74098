"""`subquad generate`: extends prompts."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Traceback,
)

if TYPE_CHECKING:
    from subquad.inference.sequence_files import Record


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt; may be repeated.")] = None,
    input_file: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="Prompts: FASTA, JSON lines or one a line (.gz too); - is stdin."),
    ] = None,
    output: Output = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add to each prompt at most.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 is greedy; else logits are divided by it.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the most likely tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the most likely tokens up to this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws; default: a new one, which is reported.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Add the log-probability of each token.")] = False,
    file_format: Format = InputFormat.auto,
    non_dna: Annotated[
        NonDNAPolicy, typer.Option(help="On characters other than ACGTN; keep allows tags such as |d__Bacteria;…|.")
    ] = NonDNAPolicy.keep,
    uppercase: Annotated[bool, typer.Option("--uppercase", help="Change prompts to upper case.")] = False,
    max_running: Annotated[int, typer.Option(min=1, help="Rows of the decode batch.")] = 8,
    prefill_chunk: Chunk = 2048,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Extend DNA prompts; one JSON line a prompt, in order."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import groups, wanted_records
        from subquad.inference.commands.progress import shown_progress
        from subquad.inference.engine import Engine
        from subquad.inference.options import GenerationOptions
        from subquad.inference.result_files import opened_results

        records = _records(prompt, input_file, file_format)
        where = "--prompt" if input_file is None else str(input_file)
        options = GenerationOptions(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=tuple(stop or ()),
            return_logprobs=logprobs,
        )
        with opened_results(output, overwrite=overwrite, resume=resume) as results:
            wanted = wanted_records(records, policy=non_dna.value, uppercase=uppercase, kept=results.kept, where=where)
            engine = Engine.from_checkpoint(
                checkpoint, device=device, dtype=dtype, max_running=max_running, prefill_chunk=prefill_chunk
            )
            with shown_progress("generate", show=progress) as advance:
                for group in groups(wanted, 16 * max_running):
                    _extend(engine, group, options, results, advance)


def _records(prompts: list[str] | None, path: Path | None, file_format: InputFormat) -> "Iterator[Record]":
    from subquad.inference.errors import InvalidOption
    from subquad.inference.sequence_files import Record, read_records

    if (path is None) == (not prompts):
        raise InvalidOption("--prompt and --input", "both" if prompts else None, "exactly one of them")
    if path is not None:
        return read_records(path, file_format=file_format.value)
    return (Record(str(i), text, 1) for i, text in enumerate(prompts or ()))


def _extend(engine, group, options, results, advance) -> None:  # type: ignore[no-untyped-def]
    generations = engine.generate_each([record.sequence for record in group], options, names=[r.id for r in group])
    for record, result in zip(group, generations, strict=True):
        row = {
            "id": record.id,
            "prompt": record.sequence,
            "completion": result.text,
            "finish_reason": result.finish_reason,
            "stop_sequence": result.stop_sequence,
            "seed": result.seed,
            "ids": result.ids,
        }
        if result.logprobs is not None:
            row["logprobs"] = result.logprobs
        results.write(row)
        advance(records=1, tokens=len(result.ids))
