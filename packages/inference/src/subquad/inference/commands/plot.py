"""`subquad plot`: likelihood tracks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Overwrite,
    Progress,
    StrandChoice,
    SubquadraticOps,
    TensorParallel,
    Traceback,
    Weights,
    WeightsChoice,
)

if TYPE_CHECKING:
    from subquad.inference.commands.batches import Reading
    from subquad.inference.commands.run_batches import EngineChoice
    from subquad.inference.likelihood_track import Track
    from subquad.inference.sequence_files import Record

SUFFIXES = (".png", ".svg", ".bedgraph")


def plot(
    checkpoint: Checkpoint,
    input_file: Annotated[
        Path, typer.Argument(metavar="INPUT", help="FASTA, JSON lines or one sequence a line (.gz too); - is stdin.")
    ],
    output: Annotated[
        list[Path], typer.Option("--output", "-o", help="A .png, .svg or .bedgraph file; may be repeated.")
    ],
    record: Annotated[
        list[str] | None, typer.Option("--record", help="Only the record of this id; may be repeated.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Bases in the running mean of a picture.")] = 25,
    first_position: Annotated[
        int, typer.Option(min=0, help="Position of the first base of each record, 0-based; bedGraph counts from it.")
    ] = 0,
    strand: Annotated[
        StrandChoice, typer.Option(help="both averages log-probabilities with the reverse complement.")
    ] = StrandChoice.forward,
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
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Draw how likely the network finds each base, starting from the end-of-document token.

    A picture has one panel a record and counts positions from 1 like a genome browser; a bedGraph holds all records.
    """
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import EngineChoice
        from subquad.inference.likelihood_track import draw_tracks, write_bedgraph

        _check_outputs(output, overwrite=overwrite)
        choice = EngineChoice(
            checkpoint,
            device,
            dtype,
            prefill_chunk,
            use_subquadratic_ops=use_subquadratic_ops,
            fp8_projections=fp8_projections.value,
            weights=weights.value,
            tensor_parallel=tensor_parallel,
        )
        reading = Reading(str(input_file), non_dna.value, uppercase)
        records = _chosen_records(input_file, file_format, reading, record or [], choice.token_limit())
        tracks = _tracks(records, choice, strand, first_position, show=progress)
        for path in output:
            if path.suffix == ".bedgraph":
                write_bedgraph(tracks, path)
            else:
                draw_tracks(tracks, path, window=window, first_shown=1)


def _check_outputs(output: list[Path], *, overwrite: bool) -> None:
    from subquad.inference.errors import InvalidOption

    for path in output:
        if path.suffix not in SUFFIXES:
            raise InvalidOption("--output", str(path), f"a name that ends in {', '.join(SUFFIXES)}")
        if path.exists() and not overwrite:
            raise InvalidOption("--output", str(path), "a file that does not exist yet, or --overwrite")
        if not path.absolute().parent.is_dir():
            raise InvalidOption("--output", str(path), "a file in a folder that exists")


def _chosen_records(
    path: Path, file_format: InputFormat, reading: "Reading", wanted: list[str], limit: int
) -> "list[Record]":
    """Reads the records that are to be drawn, and refuses what cannot be before the network is loaded."""
    from subquad.inference.commands.batches import survey
    from subquad.inference.errors import InvalidOption
    from subquad.inference.sequence_files import read_records

    records = [each for each in read_records(path, file_format=file_format.value) if not wanted or each.id in wanted]
    if missing := sorted(set(wanted) - {each.id for each in records}):
        raise InvalidOption("--record", missing[0], f"the id of a record of {path}")
    survey(records, reading, limit=limit, room=1)
    return list(reading.chosen(records))


def _tracks(
    records: "list[Record]", choice: "EngineChoice", strand: StrandChoice, first_position: int, *, show: bool | None
) -> "list[Track]":
    from subquad.inference.commands.progress import shown_progress
    from subquad.inference.likelihood_track import Track

    engine, tracks = choice.load(), []
    strands = 2 if strand == "both" else 1
    total = strands * sum(len(each.sequence) for each in records)
    with shown_progress("plot", show=show, total=total) as advance:
        for each in records:
            (score,) = engine.score_details(
                [each.sequence], prepend_eod=True, strand=strand.value, keep_logprobs=True, names=[each.id]
            )
            tracks.append(Track(each.id, score.logprobs or [], first_position))
            advance(records=1, tokens=strands * len(each.sequence))
    return tracks
