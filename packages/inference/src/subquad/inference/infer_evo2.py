"""``infer_evo2``: generation with the flags of the NVIDIA recipe's command; each works or is refused with a reason.

See `subquad generate` for what else there is.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.settings import FP8, MOST_ROWS, Device, EngineOptions, FP8Choice, Traceback
from subquad.inference.errors import InvalidOption, InvalidSequence, RequestTooLarge
from subquad.inference.evo2_flags import (
    CheckpointFolder,
    ContextParallel,
    FusedOperators,
    PipelineParallel,
    PrecisionRecipe,
    TensorParallel,
    VortexStyleFP8,
    check_checkpoint,
    check_parallel,
    dtype_of,
    refuse_unless,
    require_fp8,
    run_alone,
)
from subquad.inference.lineage_tags import phylogenetic_tag

if TYPE_CHECKING:
    from subquad.inference.engine import Engine
    from subquad.inference.options import Generation
    from subquad.inference.sequence_files import Record

DEFAULT_PROMPT = phylogenetic_tag(
    "d__Bacteria;p__Pseudomonadota;c__Gammaproteobacteria;o__Enterobacterales;f__Enterobacteriaceae;"
    "g__Escherichia;s__Escherichia"
)
_REASONS = {"max_new_tokens": "length", "context_length": "length"}


def infer_evo2(
    ckpt_dir: CheckpointFolder,
    prompt: Annotated[
        str | None, typer.Option(help=f"The prompt; default: {DEFAULT_PROMPT}.", show_default=False)
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="JSON lines with id and prompt; instead of --prompt.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add to each prompt.")] = 100,
    temperature: Annotated[float, typer.Option(help="Logits are divided by it; 0 is greedy.")] = 1.0,
    top_k: Annotated[
        int, typer.Option(help="Keep so many most likely tokens; 0 keeps all; not together with --top-p.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option(help="Keep the most likely tokens up to this probability; 0 keeps all.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 1234,
    return_log_probs: Annotated[
        bool, typer.Option("--return-log-probs", help="Add that of each new token, in nats.")
    ] = False,
    tensor_parallel_size: TensorParallel = 1,
    pipeline_model_parallel_size: PipelineParallel = 1,
    context_parallel_size: ContextParallel = 1,
    output_file: Annotated[
        Path | None, typer.Option(help="JSON lines, replaced where it exists; default: standard output.")
    ] = None,
    mixed_precision_recipe: PrecisionRecipe = None,
    vortex_style_fp8: VortexStyleFP8 = False,
    max_seq_length: Annotated[
        int | None, typer.Option(help="Prompt and new tokens at most; default: EVO2_MAX_SEQ_LEN, else the network's.")
    ] = None,
    max_seq_length_num_prompts: Annotated[
        int | None, typer.Option(help="Refused: every prompt is looked at, and memory is taken for those that run.")
    ] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="Prompts that run together.")] = 1,
    use_subquadratic_ops: FusedOperators = None,
    cuda_graph_impl: Annotated[
        str, typer.Option(help="Accepted: none; decode steps are captured wherever that is possible.")
    ] = "none",
    enable_chunked_prefill: Annotated[
        bool,
        typer.Option(
            "--enable-chunked-prefill", help="Has no effect: prompts are always read in chunks, with the same result."
        ),
    ] = False,
    prompt_segmentation_threshold: Annotated[
        int | None, typer.Option(min=1, help="Read longer prompts in pieces of so many tokens, with the same result.")
    ] = None,
    inference_dynamic_batching_max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a prefill chunk; default: 8192 on a GPU, else 2048.")
    ] = None,
    inference_dynamic_batching_block_size: Annotated[
        int, typer.Option(help="Accepted: 256, the tokens of a page of keys and values.")
    ] = 256,
    fp8_projections: FP8 = FP8Choice.auto,
    device: Device = "auto",
    traceback: Traceback = False,
) -> None:
    """Extend DNA prompts; JSON lines of id, prompt, completion, finish_reason, usage and logprobs.

    Like the original it goes on after the end of a document, and so always ends by length.
    """
    with one_line_errors(traceback=traceback):
        check_parallel(pipeline_model_parallel_size, context_parallel_size)
        dtype = dtype_of(mixed_precision_recipe)
        refuse_unless(
            "--cuda-graph-impl", cuda_graph_impl, "none", "whether decode steps are captured is no choice here"
        )
        reason = "blocks of other sizes would change memory only, not results"
        refuse_unless("--inference-dynamic-batching-block-size", inference_dynamic_batching_block_size, 256, reason)
        reason = "every prompt is looked at, and memory is taken for those that run"
        refuse_unless("--max-seq-length-num-prompts", max_seq_length_num_prompts, None, reason)
        chunk = _chunk(prompt_segmentation_threshold, inference_dynamic_batching_max_tokens)
        check_checkpoint(ckpt_dir)
        from subquad.inference.commands.run_batches import EngineChoice
        from subquad.inference.engine import Engine
        from subquad.inference.options import GenerationOptions
        from subquad.inference.result_files import opened_results

        if top_k and top_p:
            raise InvalidOption("--top-k and --top-p", (top_k, top_p), "one of them; the other one 0")
        options = GenerationOptions(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p or 1.0,
            seed=seed,
            return_logprobs=return_log_probs,
        )
        records = _records(prompt, prompt_file)
        limit = _limit(max_seq_length, EngineChoice(ckpt_dir, EngineOptions()).token_limit())
        _check_lengths(records, new=max_new_tokens, limit=limit)
        with opened_results(
            output_file,
            columns={"id": "text"},
            file_format="jsonl",
            overwrite=output_file is not None,
            inputs=[] if prompt_file is None else [prompt_file],
            flag="--output-file",
            way_on="rows.jsonl there has them",
        ) as results:
            engine = Engine.from_checkpoint(
                ckpt_dir,
                device=device,
                dtype=dtype,
                max_running=max_batch_size,
                prefill_chunk=chunk,
                use_subquadratic_ops=use_subquadratic_ops,
                fp8_projections=fp8_projections.value,
                tensor_parallel=tensor_parallel_size,
            )
            require_fp8(engine.model, vortex_style_fp8=vortex_style_fp8)
            _check_memory(engine, records, new=max_new_tokens)
            for row in _rows(engine, records, options):
                results.write(row)


def _chunk(threshold: int | None, budget: int | None) -> int | None:
    if threshold is not None and budget is not None and threshold != budget:
        flags = "--prompt-segmentation-threshold and --inference-dynamic-batching-max-tokens"
        raise InvalidOption(flags, (threshold, budget), "one of them; both are the size of a chunk")
    return threshold or budget


def _limit(given: int | None, of_the_network: int) -> int:
    text, field = os.environ.get("EVO2_MAX_SEQ_LEN"), "--max-seq-length"
    if given is None and text is not None:
        field = "EVO2_MAX_SEQ_LEN"
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise InvalidOption(field, text[:40], "an integer")
        given = int(text)
    if given is not None and not 2 <= given <= of_the_network:
        raise InvalidOption(field, given, f"2 to {of_the_network}, what the network takes")
    return of_the_network if given is None else given


def _records(prompt: str | None, path: Path | None) -> "list[Record]":
    """Returns the prompts.

    Raises:
      InvalidOption: They come from two places.
      InputFileError: The file is damaged, or two prompts have one id, so that nothing would tell whose a result is.
    """
    from subquad.inference.commands.batches import Reading
    from subquad.inference.sequence_files import Record, input_name, read_records

    if path is None:
        return [Record("0", DEFAULT_PROMPT if prompt is None else prompt, 1)]
    if prompt is not None:
        raise InvalidOption("--prompt and --prompt-file", prompt, "one of them")
    return list(Reading(input_name(path), "keep").unrepeated(read_records(path, file_format="jsonl")))


def _check_lengths(records: "list[Record]", *, new: int, limit: int) -> None:
    """Refuses prompts that are too long for the network, or whose characters have no token.

    Raises:
      RequestTooLarge: A prompt leaves no room for the new tokens.
      InvalidSequence: A prompt is empty, or a character of it is not ASCII.
    """
    from subquad.inference.tokenizer import ByteTokenizer

    for record in records:
        size, field = len(record.sequence), f"prompt {record.id!r}"
        if size + new > limit:
            raise RequestTooLarge(field, size, limit - new, "tokens")
        if not size:
            raise InvalidSequence(field, "is empty; accepted: at least one token")
        ByteTokenizer().encode(record.sequence, field=field)


def _check_memory(engine: "Engine", records: "list[Record]", *, new: int) -> None:
    """Refuses prompts that are too long for the memory.

    Raises:
      InsufficientMemory: For the memory.
    """
    from subquad.inference.memory import require_memory

    longest = max(records, key=lambda record: len(record.sequence))
    length, field = len(longest.sequence) + new, f"prompt {longest.id!r}"
    require_memory(engine.network, engine.device, rows=engine.max_running, length=length, field=field)


def _rows(engine: "Engine", records: "list[Record]", options: Any) -> Iterator[dict[str, Any]]:
    names = [f"prompt {record.id!r}" for record in records]
    texts = [record.sequence for record in records]
    generations = engine.generate_each(texts, options, names=names, ignore_end_of_document=True)
    for record, generation in zip(records, generations, strict=True):
        yield _row(record, generation)


def _row(record: "Record", generation: "Generation") -> dict[str, Any]:
    prompt, new = len(record.sequence), len(generation.ids)
    row: dict[str, Any] = {
        "id": record.id,
        "prompt": record.sequence,
        "completion": generation.text,
        "finish_reason": _REASONS.get(generation.finish_reason, "stop"),
        "usage": {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new},
    }
    if generation.logprobs is not None:
        row["logprobs"] = {"completion_logprobs": generation.logprobs}
    return row


def main() -> None:
    """Runs ``infer_evo2``."""
    run_alone(infer_evo2, "infer_evo2")


if __name__ == "__main__":
    main()
