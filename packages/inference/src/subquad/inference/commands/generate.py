"""`subquad generate`: extends prompts."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.option_groups import chosen_flags, with_options
from subquad.inference.commands.settings import (
    MOST_ROWS,
    Checkpoint,
    EngineOptions,
    InputFormat,
    Progress,
    ReadingOptions,
    ResultOptions,
    Traceback,
)

if TYPE_CHECKING:
    from subquad.inference.engine import Engine
    from subquad.inference.options import GenerationOptions
    from subquad.inference.result_formats import Columns
    from subquad.inference.sequence_files import Record


MAX_STORED_SEED = 2**63 - 1


@dataclass(frozen=True)
class GenerateOptions:
    """How prompts are extended."""

    tag: Annotated[
        str | None,
        typer.Option("--tag", help="Lineage for a phylogenetic tag before each prompt: d__Bacteria;g__Escherichia."),
    ] = None
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add to each prompt at most.")] = 100
    temperature: Annotated[float, typer.Option(help="0 is greedy; else logits are divided by it.")] = 0.0
    top_k: Annotated[int, typer.Option(help="Keep the most likely tokens; 0 keeps all.")] = 0
    top_p: Annotated[float, typer.Option(help="Keep the most likely tokens up to this probability.")] = 1.0
    seed: Annotated[int | None, typer.Option(help="Seed of the draws; default: a new one, which is reported.")] = None
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None
    ignore_eod: Annotated[
        bool, typer.Option("--ignore-eod", help="Go on after the end-of-document token instead of ending there.")
    ] = False
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Add the log-probability of each token.")] = False
    max_running: Annotated[
        int, typer.Option(min=1, max=MOST_ROWS, help="Prompts that are extended together, at most.")
    ] = 8

    def checked(self) -> "GenerationOptions":
        """Returns what the engine is asked for.

        Raises:
          InvalidOption: A value lies outside its range, or has no effect on greedy tokens.
        """
        from subquad.inference.errors import InvalidOption
        from subquad.inference.options import GenerationOptions

        asked = GenerationOptions(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
            return_logprobs=self.logprobs,
        )
        if not asked.temperature:
            for flag, value, idle in (("--top-k", self.top_k, 0), ("--top-p", self.top_p, 1.0)):
                if value != idle:
                    raise InvalidOption(flag, value, f"{idle} with greedy tokens; others need a --temperature above 0")
        return asked


@with_options
def generate(
    checkpoint: Checkpoint,
    *,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt; may be repeated.")] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input", "-i", help="Prompts: FASTA, JSON lines, or one a line in a .txt file (.gz too); - is stdin."
        ),
    ] = None,
    results: ResultOptions,
    options: GenerateOptions,
    reading: ReadingOptions,
    engine_options: EngineOptions,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Extend DNA prompts; one row a prompt, in order, with the reason why each ended."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import Destination, EngineChoice, Load, run_batches
        from subquad.inference.errors import InvalidOption
        from subquad.inference.lineage_tags import phylogenetic_tag
        from subquad.inference.result_formats import format_of
        from subquad.inference.sequence_files import input_name

        records = _records(prompt, input_file, reading.file_format)
        asked = options.checked()
        if (options.seed or 0) > MAX_STORED_SEED and results.output is not None:
            stored = format_of(results.output, results.output_format.value)
            if stored != "jsonl":
                raise InvalidOption("--seed", options.seed, f"0 to {MAX_STORED_SEED} for a {stored} file")
        prefix = "" if options.tag is None else phylogenetic_tag(options.tag, field="--tag")
        where = "--prompt" if input_file is None else input_name(input_file)
        inputs = [] if input_file is None else [input_file]

        def work(engine: "Engine", group: "list[Record]") -> "Iterator[tuple[dict[str, Any], int]]":
            return _extended(engine, group, asked, where, ignore_eod=options.ignore_eod)

        rows = options.max_running
        run_batches(
            "generate",
            records,
            Reading(where, reading.non_dna.value, reading.uppercase, tags=True, prefix=prefix),
            EngineChoice(checkpoint, engine_options, max_running=rows),
            Destination(results, _columns(logprobs=options.logprobs), chosen_flags(options, reading), inputs),
            Load(group=16 * rows, rows=rows, all_rows=True, room=1, extra=options.max_new_tokens, weight=0),
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
    if file_format != "auto":
        raise InvalidOption("--format", file_format.value, "only together with --input")
    texts = prompts or []
    for text in texts:
        if not text:
            raise InvalidOption("--prompt", text, "one or more characters")
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
