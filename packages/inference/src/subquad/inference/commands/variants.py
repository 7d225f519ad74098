"""`subquad variants`: how much a change of the genome changes its likelihood."""

from collections.abc import Iterator
from enum import StrEnum
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
    FP8Choice,
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


def variants(
    checkpoint: Checkpoint,
    variant_file: Annotated[
        Path,
        typer.Argument(metavar="VARIANTS", help="VCF, or a table with chrom, pos, ref, alt (.gz too); - is stdin."),
    ],
    reference: Annotated[Path, typer.Option("--reference", "-r", help="FASTA of the genome, not compressed.")],
    output: Output = None,
    output_format: ResultsFormat = OutputFormat.auto,
    window: Annotated[int, typer.Option(min=2, help="Bases of the reference window.")] = 8192,
    anchor: Annotated[
        AnchorChoice, typer.Option(help="Where in its window the variant lies; end has all other bases upstream.")
    ] = AnchorChoice.middle,
    strand: Annotated[
        StrandChoice, typer.Option(help="both averages with the reverse complement.")
    ] = StrandChoice.forward,
    prepend_eod: PrependEOD = False,
    batch_size: BatchSize = 1,
    variant_format: Annotated[
        VariantFormatChoice, typer.Option("--format", help="auto looks for a VCF header.")
    ] = VariantFormatChoice.auto,
    symbolic: Annotated[
        SymbolicPolicy, typer.Option(help="On alleles that are not bases, such as <DEL> or *.")
    ] = SymbolicPolicy.error,
    non_dna: Annotated[
        NonDNAPolicy, typer.Option(help="On characters of the genome other than ACGTN.")
    ] = NonDNAPolicy.error,
    keep_case: Annotated[bool, typer.Option("--keep-case", help="Leave soft-masked bases in lower case.")] = False,
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
    """Score variants: log-likelihood of the window with the variant minus that of the reference, in nats."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.commands.batches import Reading
        from subquad.inference.commands.run_batches import GROUP_BATCHES, Destination, EngineChoice, Load, run_batches
        from subquad.inference.reference_genome import ReferenceGenome
        from subquad.inference.variant_files import VariantWindows, read_variants

        settings = {
            "--reference": str(reference),
            "--window": window,
            "--anchor": anchor.value,
            "--strand": strand.value,
            "--prepend-eod": prepend_eod,
            "--batch-size": batch_size,
            "--symbolic": symbolic.value,
            "--non-dna": non_dna.value,
            "--keep-case": keep_case,
        }
        genome = ReferenceGenome(reference)
        where = str(variant_file)
        cut = VariantWindows(genome, where, window, anchor.value, not keep_case, non_dna.value)

        def records() -> "Iterator[VariantRecord]":
            return cut.records(read_variants(variant_file, file_format=variant_format.value, symbolic=symbolic.value))

        def work(engine: "Engine", group: "list[VariantRecord]") -> "Iterator[tuple[dict[str, Any], int]]":
            texts = list(dict.fromkeys(t for each in group for t in (each.windows.reference, each.windows.alternate)))
            scores = engine.score_details(texts, prepend_eod=prepend_eod, strand=strand.value, batch_size=batch_size)
            likelihood = {text: score.log_likelihood for text, score in zip(texts, scores, strict=True)}
            for each in group:
                pair = (likelihood[each.windows.reference], likelihood[each.windows.alternate])
                yield _row(each, *pair), weight * len(each.sequence)

        group_size = 1 if batch_size == 1 else GROUP_BATCHES * batch_size
        weight = 2 * (2 if strand == "both" else 1)
        try:
            run_batches(
                "variants",
                records() if where == "-" else records,
                Reading(where, "keep"),
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
                Destination(output, output_format.value, overwrite, resume, _columns(), settings),
                Load(group=group_size, multiple=group_size, rows=batch_size, room=int(prepend_eod), weight=weight),
                work,  # type: ignore[arg-type]
                show=progress,
            )
        finally:
            genome.close()


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
