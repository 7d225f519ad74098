"""Options that several commands share."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from subquad.inference.commands.option_groups import Changeable


class InputFormat(StrEnum):
    """Formats of input files."""

    auto = "auto"
    fasta = "fasta"
    jsonl = "jsonl"
    plain = "plain"


class NonDNAPolicy(StrEnum):
    """What to do about a record with characters other than A C G T N."""

    error = "error"
    mask = "mask"
    skip = "skip"
    keep = "keep"


class StrandChoice(StrEnum):
    """Strands that a score is taken over."""

    forward = "forward"
    both = "both"


class OutputFormat(StrEnum):
    """Formats of output files."""

    auto = "auto"
    jsonl = "jsonl"
    parquet = "parquet"
    safetensors = "safetensors"


class FP8Choice(StrEnum):
    """Ways to run a network with FP8 projections."""

    auto = "auto"
    emulate = "emulate"
    exact = "exact"
    off = "off"


class WeightsChoice(StrEnum):
    """How the weights of linear layers are held."""

    stored = "stored"
    fp8 = "fp8"


Checkpoint = Annotated[Path, typer.Argument(help="A native checkpoint directory.", show_default=False)]
SequenceInput = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT", help="FASTA, JSON lines, or one sequence a line in a .txt file (.gz too); - is stdin."
    ),
]
Strand = Annotated[
    StrandChoice, typer.Option("--strand", help="both averages log-probabilities with the reverse complement.")
]
MOST_ROWS = 1 << 16  # side by side; far more than any memory holds
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        min=1,
        max=MOST_ROWS,
        help="Sequences read side by side; 1 makes results bitwise independent of each other.",
    ),
]
PrependEOD = Annotated[
    bool,
    typer.Option("--prepend-eod", help="Start from the end-of-document token, so that the first base is scored."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output."), Changeable()]
Device = Annotated[
    str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda or cuda:N."), Changeable()
]
FP8 = Annotated[
    FP8Choice,
    typer.Option(
        "--fp8-projections",
        help="Of a checkpoint that has them: auto wants an H100 or H200, emulate does the same anywhere and slowly, "
        "exact adds otherwise, off leaves them out; what that costs is said where it matters.",
    ),
]
Chunk = Annotated[
    int | None,
    typer.Option(
        "--prefill-chunk", min=1, help="Tokens read at once; bounds the memory. Default: 8192 on a GPU, else 2048."
    ),
]
Progress = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Progress on stderr; default: on a terminal.")
]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show Python's traceback of an error.")]


@dataclass(frozen=True)
class ResultOptions:
    """Where results go, and how."""

    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Results go here, complete or not at all; default: JSON lines on stdout."),
        Changeable(),
    ] = None
    output_format: Annotated[
        OutputFormat,
        typer.Option("--output-format", help="Format of the output; auto goes by its name, else JSON lines."),
        Changeable(),
    ] = OutputFormat.auto
    overwrite: Overwrite = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the results of an interrupted run and go on."), Changeable()
    ] = False


@dataclass(frozen=True)
class ReadingOptions:
    """How sequences and prompts are read."""

    file_format: Annotated[
        InputFormat,
        typer.Option("--format", help="Format of the input; auto looks at its first byte, and for plain at its name."),
        Changeable(),
    ] = InputFormat.auto
    non_dna: Annotated[
        NonDNAPolicy,
        typer.Option(
            "--non-dna",
            help="On characters other than ACGTN (in a prompt, outside tags |d__Bacteria;...|): error refuses the "
            "input, mask reads N there, skip leaves the record out, keep reads them as they are.",
        ),
    ] = NonDNAPolicy.error
    uppercase: Annotated[bool, typer.Option("--uppercase", help="Change bases to upper case.")] = False


@dataclass(frozen=True)
class EngineOptions:
    """How a network is loaded and run."""

    prefill_chunk: Chunk = None
    use_subquadratic_ops: Annotated[
        bool | None,
        typer.Option(
            "--use-subquadratic-ops/--no-use-subquadratic-ops",
            help="Demand fused operators, or run their parts one by one; default: what is faster. Decode is the same.",
        ),
    ] = None
    device: Device = "auto"
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="auto (as stored; on a CPU float32 for 16 bits), float32, bfloat16, float16 or float64.",
        ),
    ] = "auto"
    fp8_projections: FP8 = FP8Choice.auto
    weights: Annotated[
        WeightsChoice,
        typer.Option(
            "--weights",
            help="fp8 rounds linear layers to one byte a weight, 3 bits of mantissa: half the memory of bfloat16. Log-"
            "likelihoods of a trained network moved by 0.0044 nats a base, by 0.0017 in bfloat16; compare your own.",
        ),
    ] = WeightsChoice.stored
    tensor_parallel: Annotated[
        int,
        typer.Option(
            "--tensor-parallel",
            min=1,
            help="Processes that share every layer, one CUDA device each (or the CPU): for networks too large for one.",
        ),
    ] = 1
