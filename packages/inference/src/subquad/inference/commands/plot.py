"""`subquad plot`: likelihood tracks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.option_groups import with_options
from subquad.inference.commands.settings import (
    Checkpoint,
    EngineOptions,
    InputFormat,
    Overwrite,
    Progress,
    ReadingOptions,
    SequenceInput,
    Strand,
    StrandChoice,
    Traceback,
)

if TYPE_CHECKING:
    from subquad.inference.commands.batches import Reading
    from subquad.inference.commands.run_batches import EngineChoice
    from subquad.inference.likelihood_track import Track
    from subquad.inference.sequence_files import Record

SUFFIXES = (".png", ".svg", ".bedgraph")
WINDOW = 25
LAST_POSITION = 10**12


@dataclass(frozen=True)
class PlotOptions:
    """What is drawn, and where to."""

    output: Annotated[
        list[Path], typer.Option("--output", "-o", help="A .png, .svg or .bedgraph file; may be repeated.")
    ]
    overwrite: Overwrite = False
    record: Annotated[
        list[str] | None, typer.Option("--record", help="Only the record of this id; may be repeated.")
    ] = None
    window: Annotated[
        int | None, typer.Option(min=1, help=f"Bases in the running mean of a picture; default: {WINDOW}.")
    ] = None
    first_position: Annotated[
        int,
        typer.Option(
            min=0,
            max=LAST_POSITION,
            help="Position of the first base of each record, 0-based; bedGraph counts from it.",
        ),
    ] = 0
    strand: Strand = StrandChoice.forward


@with_options
def plot(
    checkpoint: Checkpoint,
    input_file: SequenceInput,
    options: PlotOptions,
    reading: ReadingOptions,
    engine_options: EngineOptions,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Draw how likely the network finds each base, starting from the end-of-document token.

    A picture has one panel a record and counts positions from 1 like a genome browser; a bedGraph holds all records.
    """
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import EngineChoice
        from subquad.inference.likelihood_track import (
            check_bedgraph,
            check_pictures,
            draw_tracks,
            write_bedgraph,
        )
        from subquad.inference.sequence_files import input_name

        _check_outputs(options, input_file)
        choice = EngineChoice(checkpoint, engine_options)
        chosen = Reading(input_name(input_file), reading.non_dna.value, reading.uppercase)
        records = _chosen_records(input_file, reading.file_format, chosen, options.record or [], choice.token_limit())
        if any(path.suffix != ".bedgraph" for path in options.output):
            check_pictures(len(records))
        if any(path.suffix == ".bedgraph" for path in options.output):
            check_bedgraph(record.id for record in records)
        tracks = _tracks(records, choice, options, show=progress)
        for path in options.output:
            if path.suffix == ".bedgraph":
                write_bedgraph(tracks, path)
            else:
                draw_tracks(tracks, path, window=options.window or WINDOW, first_shown=1)


def _check_outputs(options: PlotOptions, source: Path) -> None:
    from subquad.inference.errors import InvalidOption
    from subquad.inference.result_files import check_output

    for path in options.output:
        if path.suffix not in SUFFIXES:
            raise InvalidOption("--output", str(path), f"a name that ends in {', '.join(SUFFIXES)}")
        check_output(path, overwrite=options.overwrite, inputs=[source])
    if options.window is not None and all(path.suffix == ".bedgraph" for path in options.output):
        raise InvalidOption("--window", options.window, "only together with a .png or .svg --output")


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
    survey(lambda: records, reading, limit=limit, room=1)
    return list(reading.chosen(records))


def _tracks(
    records: "list[Record]", choice: "EngineChoice", options: PlotOptions, *, show: bool | None
) -> "list[Track]":
    from subquad.inference.commands.progress import shown_progress
    from subquad.inference.likelihood_track import Track
    from subquad.inference.memory import require_memory

    engine, tracks = choice.load(), []
    if records:
        longest = max(records, key=lambda record: len(record.sequence))
        length, field = len(longest.sequence) + 1, f"record {longest.id!r}"
        require_memory(engine.network, engine.device, rows=1, length=length, field=field)
    strands = 2 if options.strand == "both" else 1
    total = strands * sum(len(each.sequence) for each in records)
    with shown_progress("plot", show=show, total=total) as advance:
        for each in records:
            (score,) = engine.score_details(
                [each.sequence], prepend_eod=True, strand=options.strand.value, keep_logprobs=True, names=[each.id]
            )
            tracks.append(Track(each.id, score.logprobs or [], options.first_position))
            advance(records=1, tokens=strands * len(each.sequence))
    return tracks
