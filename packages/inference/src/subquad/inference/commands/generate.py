"""`subquad generate`: extends prompts."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.settings import (
    FP8,
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
    from subquad.inference.options import GenerationOptions
    from subquad.inference.result_formats import Columns
    from subquad.inference.sequence_files import Record


MAX_STORED_SEED = 2**63 - 1


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt; may be repeated.")] = None,
    input_file: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="Prompts: FASTA, JSON lines or one a line (.gz too); - is stdin."),
    ] = None,
    output: Output = None,
    output_format: ResultsFormat = OutputFormat.auto,
    tag: Annotated[
        str | None,
        typer.Option("--tag", help="Lineage for a phylogenetic tag before each prompt: d__Bacteria;g__Escherichia."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add to each prompt at most.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 is greedy; else logits are divided by it.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the most likely tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the most likely tokens up to this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws; default: a new one, which is reported.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    ignore_eod: Annotated[
        bool, typer.Option("--ignore-eod", help="Go on after the end-of-document token instead of ending there.")
    ] = False,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Add the log-probability of each token.")] = False,
    file_format: Format = InputFormat.auto,
    non_dna: Annotated[
        NonDNAPolicy, typer.Option(help="On characters other than ACGTN outside tags such as |d__Bacteria;…|.")
    ] = NonDNAPolicy.error,
    uppercase: Annotated[bool, typer.Option("--uppercase", help="Change prompts to upper case.")] = False,
    max_running: Annotated[int, typer.Option(min=1, help="Rows of the decode batch.")] = 8,
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
    """Extend DNA prompts; one row a prompt, in order, with the reason why each ended."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import Destination, EngineChoice, Load, run_batches
        from subquad.inference.errors import InvalidOption
        from subquad.inference.lineage_tags import phylogenetic_tag
        from subquad.inference.options import GenerationOptions

        records = _records(prompt, input_file, file_format)
        options = GenerationOptions(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=tuple(stop or ()),
            return_logprobs=logprobs,
        )
        if seed is not None and seed > MAX_STORED_SEED and output_format not in ("auto", "jsonl"):
            raise InvalidOption("--seed", seed, f"0 to {MAX_STORED_SEED} for a {output_format.value} file")
        prefix = "" if tag is None else phylogenetic_tag(tag, field="--tag")
        settings = {
            "--tag": tag,
            "--max-new-tokens": max_new_tokens,
            "--temperature": temperature,
            "--top-k": top_k,
            "--top-p": top_p,
            "--seed": seed,
            "--stop": list(stop or ()),
            "--ignore-eod": ignore_eod,
            "--logprobs": logprobs,
            "--non-dna": non_dna.value,
            "--uppercase": uppercase,
        }

        def work(engine: "Engine", group: "list[Record]") -> "Iterator[tuple[dict[str, Any], int]]":
            return _extended(engine, group, options, where, ignore_eod=ignore_eod)

        where = "--prompt" if input_file is None else str(input_file)
        run_batches(
            "generate",
            records,
            Reading(where, non_dna.value, uppercase, tags=True, prefix=prefix),
            EngineChoice(
                checkpoint,
                device,
                dtype,
                prefill_chunk,
                max_running,
                use_subquadratic_ops,
                fp8_projections.value,
                weights.value,
                tensor_parallel,
            ),
            Destination(output, output_format.value, overwrite, resume, _columns(logprobs=logprobs), settings),
            Load(group=16 * max_running, rows=max_running, room=1, extra=max_new_tokens, weight=0),
            work,
            show=progress,
        )


def _columns(*, logprobs: bool) -> "Columns":
    return {
        "id": "text",
        "prompt": "text",
        "completion": "text",
        "finish_reason": "text",
        "stop_sequence": "text",
        "seed": "integer",
        "ids": "integers",
        **({"logprobs": "numbers"} if logprobs else {}),  # type: ignore[dict-item]
    }


def _records(
    prompts: list[str] | None, path: Path | None, file_format: InputFormat
) -> "Callable[[], Iterable[Record]] | Iterable[Record]":
    from subquad.inference.commands.run_batches import opened_input
    from subquad.inference.errors import InvalidOption
    from subquad.inference.sequence_files import Record
    from subquad.inference.tokenizer import ByteTokenizer

    if (path is None) == (not prompts):
        raise InvalidOption("--prompt and --input", "both" if prompts else None, "exactly one of them")
    if path is not None:
        return opened_input(path, file_format.value)
    texts = prompts or []
    for text in texts:
        ByteTokenizer().encode(text, field="--prompt")
    return lambda: (Record(str(i), text, 1) for i, text in enumerate(texts))


def _extended(
    engine: "Engine", group: "list[Record]", options: "GenerationOptions", where: str, *, ignore_eod: bool
) -> "Iterator[tuple[dict[str, Any], int]]":
    generations = engine.generate_each(
        [record.sequence for record in group],
        options,
        names=[f"{where}: record {record.id!r}" for record in group],
        ignore_end_of_document=ignore_eod,
    )
    for record, result in zip(group, generations, strict=True):
        row: dict[str, Any] = {
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
        yield row, len(result.ids)
