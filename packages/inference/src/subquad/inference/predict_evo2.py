"""``predict_evo2``: scores, logits and embeddings of a FASTA with the flags of the NVIDIA recipe's command.

Each flag works or is refused with a reason. See `subquad score` and `subquad embed` for what else there is.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.settings import FP8, MOST_ROWS, Chunk, Device, EngineOptions, FP8Choice, Traceback
from subquad.inference.errors import InvalidOption
from subquad.inference.evo2_flags import (
    IN_THE_CHECKPOINT,
    ONE_MACHINE,
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

if TYPE_CHECKING:
    from subquad.inference.commands.batches import Survey
    from subquad.inference.evo2_predictions import Kind, PredictionFiles, Predictor
    from subquad.inference.sequence_files import Record

WINDOW_BATCHES = 16  # so many batches are sorted by length at a time


class WriteInterval(StrEnum):
    """When a file of predictions is written."""

    epoch = "epoch"
    batch = "batch"


class Collapse(StrEnum):
    """What becomes of the log-probabilities of a sequence."""

    sum = "sum"
    mean = "mean"
    per_token = "per_token"


def predict_evo2(
    fasta: Annotated[Path, typer.Option(help="The sequences; gzip or not.")],
    ckpt_dir: CheckpointFolder,
    output_dir: Annotated[
        Path, typer.Option(help="Folder for predictions and seq_idx_map.json; made where it is missing.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the predictions of an earlier run from the folder first.")
    ] = False,
    write_interval: Annotated[
        WriteInterval,
        typer.Option(help="epoch holds everything in memory and writes one file; batch writes one file a batch."),
    ] = WriteInterval.epoch,
    files_per_subdir: Annotated[
        int | None,
        typer.Option(min=1, help="So many files go into each folder subdir_N; only with --write-interval batch."),
    ] = None,
    micro_batch_size: Annotated[
        int, typer.Option(min=1, max=MOST_ROWS, help="Sequences read side by side, a batch.")
    ] = 1,
    min_length: Annotated[
        int | None, typer.Option(min=1, help="Pad shorter sequences to so many tokens; default: no padding.")
    ] = None,
    prepend_bos: Annotated[
        bool, typer.Option("--prepend-bos", help="Start from the end-of-document token, 0.")
    ] = False,
    output_log_prob_seqs: Annotated[
        bool, typer.Option("--output-log-prob-seqs", help="Log-probabilities instead of logits.")
    ] = False,
    log_prob_collapse_option: Annotated[
        Collapse | None,
        typer.Option(help="Only with --output-log-prob-seqs; default: mean.", show_default=False),
    ] = None,
    embedding_layer: Annotated[
        int | None, typer.Option(help="Hidden states after this block instead; negative from the last.")
    ] = None,
    tensor_parallel_size: TensorParallel = 1,
    pipeline_model_parallel_size: PipelineParallel = 1,
    context_parallel_size: ContextParallel = 1,
    no_sequence_parallel: Annotated[
        bool, typer.Option("--no-sequence-parallel", help="Has no effect: it is off in any case.")
    ] = False,
    mixed_precision_recipe: PrecisionRecipe = None,
    vortex_style_fp8: VortexStyleFP8 = False,
    use_subquadratic_ops: FusedOperators = None,
    num_nodes: Annotated[int, typer.Option(help="Accepted: 1.")] = 1,
    devices: Annotated[int, typer.Option(help="Accepted: 1; see --tensor-parallel-size.")] = 1,
    hybrid_override_pattern: Annotated[str | None, typer.Option(help="Refused: the checkpoint says it.")] = None,
    num_layers: Annotated[int | None, typer.Option(help="Refused: the checkpoint says it.")] = None,
    seq_len_interpolation_factor: Annotated[int | None, typer.Option(help="Refused: the checkpoint says it.")] = None,
    eden_tokenizer: Annotated[bool, typer.Option("--eden-tokenizer", help="Refused: the checkpoint says it.")] = False,
    mask_phylogenetic_tags: Annotated[
        bool, typer.Option("--mask-phylogenetic-tags", help="Refused: a FASTA of bases has no tags.")
    ] = False,
    prefill_chunk: Chunk = None,
    fp8_projections: FP8 = FP8Choice.auto,
    device: Device = "auto",
    traceback: Traceback = False,
) -> None:
    """Write logits, log-probabilities or hidden states of every sequence of a FASTA, upper-cased, as .pt files.

    Sequences of like length are read together; seq_idx in a file and seq_idx_map.json say which is which.
    """
    with one_line_errors(traceback=traceback):
        check_parallel(pipeline_model_parallel_size, context_parallel_size)
        for flag, value, accepted, reason in (
            ("--num-nodes", num_nodes, 1, ONE_MACHINE),
            ("--devices", devices, 1, ONE_MACHINE),
            ("--hybrid-override-pattern", hybrid_override_pattern, None, IN_THE_CHECKPOINT),
            ("--num-layers", num_layers, None, IN_THE_CHECKPOINT),
            ("--seq-len-interpolation-factor", seq_len_interpolation_factor, None, IN_THE_CHECKPOINT),
            ("--eden-tokenizer", eden_tokenizer, False, IN_THE_CHECKPOINT),
            (
                "--mask-phylogenetic-tags",
                mask_phylogenetic_tags,
                False,
                "only bases are accepted, so there are no tags",
            ),
        ):
            refuse_unless(flag, value, accepted, reason)
        dtype = dtype_of(mixed_precision_recipe)
        if write_interval is WriteInterval.epoch:
            refuse_unless("--files-per-subdir", files_per_subdir, None, "--write-interval epoch writes one file")
        kind = _kind(embedding_layer, log_prob_collapse_option, log_probs=output_log_prob_seqs)
        check_checkpoint(ckpt_dir)
        _check_paths(fasta, output_dir, overwrite=overwrite)
        from subquad.inference.commands.batches import Reading, survey
        from subquad.inference.commands.run_batches import EngineChoice
        from subquad.inference.evo2_predictions import PredictionFiles, Predictor
        from subquad.inference.memory import require_memory
        from subquad.inference.sequence_files import read_records

        options = EngineOptions(
            prefill_chunk=prefill_chunk,
            use_subquadratic_ops=use_subquadratic_ops,
            device=device,
            dtype=dtype,
            fp8_projections=fp8_projections,
            tensor_parallel=tensor_parallel_size,
        )
        choice = EngineChoice(ckpt_dir, options)
        reading = Reading(str(fasta), "error", uppercase=True)
        opened = partial(read_records, fasta, file_format="fasta")
        check = partial(_check_scored, where=str(fasta), kind=kind, prepend_bos=prepend_bos)
        found = survey(opened, reading, limit=choice.token_limit(), room=int(prepend_bos), check=check)
        check_shortest(found, min_length, choice.token_limit() - prepend_bos)
        engine = choice.load()
        require_fp8(engine.model, vortex_style_fp8=vortex_style_fp8)
        width = max(found.longest, min_length or 0) + prepend_bos
        rows = min(micro_batch_size, found.records)
        require_memory(engine.network, engine.device, rows=rows, length=width, field=found.name)
        predictor = Predictor(
            engine, kind, embedding_layer=embedding_layer, prepend_bos=prepend_bos, min_length=min_length or 0
        )
        by_batch = write_interval is WriteInterval.batch
        with _held(output_dir, overwrite=overwrite):
            files = PredictionFiles(output_dir, by_batch=by_batch, per_folder=files_per_subdir)
            records = reading.chosen(opened())
            _write_index(output_dir, _predict(records, predictor, files, rows=micro_batch_size))


def _check_paths(fasta: Path, folder: Path, *, overwrite: bool) -> None:
    """Refuses what cannot be read twice, a file as a folder, and predictions that would be mixed with new ones."""
    from subquad.inference.sequence_files import read_once_only

    if read_once_only(fasta):
        raise InvalidOption("--fasta", str(fasta), "a file, which is read twice; no pipe and no standard input")
    _refuse_earlier(folder, overwrite=overwrite)
    if folder.exists() and not folder.is_dir():
        raise InvalidOption("--output-dir", str(folder), "a folder, which is made where it is missing")
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise InvalidOption("--output-dir", str(folder), f"a folder that can be written; {place} cannot")


def _refuse_earlier(folder: Path, *, overwrite: bool) -> None:
    from subquad.inference.evo2_predictions import earlier_predictions

    if not overwrite and (found := earlier_predictions(folder)):
        accepted = f"a folder without predictions, or --overwrite; this one has {found[0].name}"
        raise InvalidOption("--output-dir", str(folder), accepted)


def _check_scored(record: "Record", *, where: str, kind: str, prepend_bos: bool) -> None:
    from subquad.inference.scoring import strand_inputs

    if kind != "logits":
        field, prepend = f"{where}: record {record.id!r}", 0 if prepend_bos else None
        strand_inputs(record.sequence.encode(), prepend=prepend, strand="forward", field=field)


def _kind(embedding_layer: int | None, collapse: Collapse | None, *, log_probs: bool) -> "Kind":
    """Returns what is predicted.

    Raises:
      InvalidOption: Flags say two things, or one that has no meaning.
    """
    if not log_probs:
        reason = "without --output-log-prob-seqs there is nothing to collapse"
        refuse_unless("--log-prob-collapse-option", collapse, None, reason)
        return "logits"
    if embedding_layer is not None:
        flags = "--output-log-prob-seqs and --embedding-layer"
        raise InvalidOption(flags, embedding_layer, "one of them; a file holds one kind of prediction")
    return (collapse or Collapse.mean).value  # type: ignore[return-value]


@contextmanager
def _held(folder: Path, *, overwrite: bool) -> Iterator[None]:
    """Keeps other runs away from the folder, and removes the predictions of an earlier one and what it left half-done.

    Raises:
      InvalidOption: Another run writes to it, or has done so meanwhile.
    """
    from subquad.inference.evo2_predictions import earlier_predictions, half_done_predictions
    from subquad.inference.unfinished import held
    from subquad.inference.writing import writing

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder))
        except BlockingIOError:
            accepted = "another folder, as long as the run that writes to it goes on"
            raise InvalidOption("--output-dir", str(folder), accepted) from None
        except OSError:  # a file system without locks
            pass
        _refuse_earlier(folder, overwrite=overwrite)
        with writing(folder):
            for path in (*earlier_predictions(folder), *half_done_predictions(folder)):
                path.unlink()
        yield


def _write_index(folder: Path, order: dict[str, int]) -> None:
    from subquad.inference.evo2_predictions import INDEX
    from subquad.inference.writing import writing

    with writing(folder / INDEX):
        (folder / INDEX).write_text(json.dumps(order) + "\n", encoding="utf-8")


def _predict(
    records: "Iterable[Record]", predictor: "Predictor", files: "PredictionFiles", *, rows: int
) -> dict[str, int]:
    """Writes the predictions of all records to files; returns the index of each record by its name."""
    from subquad.inference.commands.batches import groups

    order: dict[str, int] = {}
    for group in groups(records, WINDOW_BATCHES * rows):
        numbered = [(len(order) + i, record) for i, record in enumerate(group)]
        order |= {record.id: index for index, record in numbered}
        numbered.sort(key=lambda pair: -len(pair[1].sequence))
        for start in range(0, len(numbered), rows):
            files.add(predictor.batch(numbered[start : start + rows]))
    files.finish()
    return order


def check_shortest(found: "Survey", min_length: int | None, limit: int) -> None:
    """Refuses to pad beyond what the network takes, and an input without any sequence.

    Raises:
      InvalidOption: Names the flag.
    """
    if min_length is not None and min_length > limit:
        raise InvalidOption("--min-length", min_length, f"1 to {limit}, what the network takes")
    if not found.records:
        raise InvalidOption("--fasta", found.name, "a file with one or more sequences")


def main() -> None:
    """Runs ``predict_evo2``."""
    run_alone(predict_evo2, "predict_evo2")


if __name__ == "__main__":
    main()
