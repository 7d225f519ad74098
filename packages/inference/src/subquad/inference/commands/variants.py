"""`subquad variants`: how much a change of the genome changes its likelihood."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.option_groups import Changeable, chosen_flags, with_options
from subquad.inference.commands.settings import (
    BatchSize,
    Checkpoint,
    EngineOptions,
    NonDNAPolicy,
    PrependEOD,
    Progress,
    ResultOptions,
    Strand,
    StrandChoice,
    Traceback,
)

if TYPE_CHECKING:
    from subquad.inference.engine import Engine
    from subquad.inference.result_formats import Columns
    from subquad.inference.variant_files import VariantRecord


class AnchorChoice(StrEnum):
    """Where in its window a variant lies."""

    middle = "middle"
    end = "end"
    start = "start"


class VariantFormatChoice(StrEnum):
    """Formats of variant files."""

    auto = "auto"
    vcf = "vcf"
    table = "table"


class SymbolicPolicy(StrEnum):
    """What to do about alleles that are not bases."""

    error = "error"
    skip = "skip"


@dataclass(frozen=True)
class VariantOptions:
    """Which windows are compared."""

    reference: Annotated[Path, typer.Option("--reference", "-r", help="FASTA of the genome, not compressed.")]
    window: Annotated[int, typer.Option(min=2, help="Bases of the reference window.")] = 8192
    anchor: Annotated[
        AnchorChoice, typer.Option(help="Where in its window the variant lies; end has all other bases upstream.")
    ] = AnchorChoice.middle
    strand: Strand = StrandChoice.forward
    prepend_eod: PrependEOD = False
    batch_size: BatchSize = 1
    variant_format: Annotated[
        VariantFormatChoice, typer.Option("--format", help="auto looks for a VCF header."), Changeable()
    ] = VariantFormatChoice.auto
    symbolic: Annotated[
        SymbolicPolicy,
        typer.Option(
            help="On alleles that are not bases, such as <DEL> or *: refuse the input, or leave the variant out."
        ),
    ] = SymbolicPolicy.error
    non_dna: Annotated[
        NonDNAPolicy,
        typer.Option(
            help="On characters of a window other than ACGTN: error refuses the input, mask reads N there, skip leaves "
            "the variant out, keep reads them as they are."
        ),
    ] = NonDNAPolicy.error
    keep_case: Annotated[bool, typer.Option("--keep-case", help="Leave soft-masked bases in lower case.")] = False


@with_options
def variants(
    checkpoint: Checkpoint,
    variant_file: Annotated[
        Path,
        typer.Argument(metavar="VARIANTS", help="VCF, or a table with chrom, pos, ref, alt (.gz too); - is stdin."),
    ],
    options: VariantOptions,
    results: ResultOptions,
    engine_options: EngineOptions,
    progress: Progress = None,
    traceback: Traceback = False,
) -> None:
    """Score variants: log-likelihood of the window with the variant minus that of the reference, in nats."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import Destination, EngineChoice, Load, run_batches
        from subquad.inference.reference_genome import ReferenceGenome
        from subquad.inference.scoring import strand_inputs
        from subquad.inference.sequence_files import input_name, read_once_only
        from subquad.inference.variant_files import VariantWindows, read_variants

        genome = ReferenceGenome(options.reference)
        where = input_name(variant_file)
        cut = VariantWindows(
            genome, where, options.window, options.anchor.value, not options.keep_case, options.non_dna.value
        )

        def records() -> "Iterator[VariantRecord]":
            kind, symbolic = options.variant_format.value, options.symbolic.value
            return cut.records(read_variants(variant_file, file_format=kind, symbolic=symbolic))

        def check(record: "VariantRecord") -> None:
            strand = options.strand.value if options.non_dna == "keep" else "forward"  # all else has a complement
            for what, text in (("reference", record.windows.reference), ("alternate", record.windows.alternate)):
                field = f"{where}, line {record.line}: the {what} window of {record.id[:60]}"
                strand_inputs(text.encode(), prepend=0 if options.prepend_eod else None, strand=strand, field=field)

        def work(engine: "Engine", group: "list[VariantRecord]") -> "Iterator[tuple[dict[str, Any], int]]":
            for each, pair in zip(group, _likelihoods(engine, group, options), strict=True):
                yield _row(each, *pair), weight * len(each.sequence)

        weight = 2 * (2 if options.strand == "both" else 1)
        try:
            run_batches(
                "variants",
                records() if read_once_only(variant_file) else records,
                Reading(where, "keep", repeats=True),
                EngineChoice(checkpoint, engine_options),
                Destination(results, _columns(), chosen_flags(options), [variant_file, options.reference]),
                Load.of_batches(options.batch_size, room=int(options.prepend_eod), weight=weight),
                work,  # type: ignore[arg-type]
                check=check,  # type: ignore[arg-type]
                show=progress,
            )
        finally:
            genome.close()


def _likelihoods(
    engine: "Engine", group: "list[VariantRecord]", options: VariantOptions
) -> "Iterator[tuple[float, float]]":
    """Yields the log-likelihoods of the two windows of each variant; windows that occur twice are scored once."""
    texts = list(dict.fromkeys(t for each in group for t in (each.windows.reference, each.windows.alternate)))
    scores = engine.score_each(
        texts, prepend_eod=options.prepend_eod, strand=options.strand.value, batch_size=options.batch_size
    )
    found, likelihood = zip(texts, scores, strict=True), dict[str, float]()
    for each in group:
        reference, alternate = each.windows.reference, each.windows.alternate
        while not (reference in likelihood and alternate in likelihood):
            text, score = next(found)
            likelihood[text] = score.log_likelihood
        yield likelihood[reference], likelihood[alternate]


def _columns() -> "Columns":
    return {
        "id": "text",
        "name": "text",
        "contig": "text",
        "position": "integer",
        "reference": "text",
        "alternate": "text",
        "window_start": "integer",
        "window_stop": "integer",
        "reference_log_likelihood": "number",
        "alternate_log_likelihood": "number",
        "delta_log_likelihood": "number",
    }


def _row(record: "VariantRecord", reference: float, alternate: float) -> dict[str, Any]:
    variant, windows = record.variant, record.windows
    return {
        "id": variant.id,
        "name": variant.name,
        "contig": variant.contig,
        "position": variant.position,
        "reference": variant.reference,
        "alternate": variant.alternate,
        "window_start": windows.start,
        "window_stop": windows.stop,
        "reference_log_likelihood": reference,
        "alternate_log_likelihood": alternate,
        "delta_log_likelihood": alternate - reference,
    }
