"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Results go here, complete or not at all; default: JSON lines on stdout."),
]
ResultsFormat = Annotated[
    OutputFormat, typer.Option("--output-format", help="Format of the output; auto goes by its name, else JSON lines.")
]
SubquadraticOps = Annotated[
    bool | None,
    typer.Option(
        "--use-subquadratic-ops/--no-use-subquadratic-ops",
        help="Demand fused operators, or run their parts one by one; default: what is faster. Decode is the same.",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", min=1, help="Sequences read side by side; 1 makes results bitwise independent of each other."
    ),
]
PrependEOD = Annotated[
    bool,
    typer.Option("--prepend-eod", help="Start from the end-of-document token, so that the first base is scored."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep the results of an interrupted run and go on.")]
Format = Annotated[InputFormat, typer.Option("--format", help="Format of the input; auto looks at its first byte.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto (as stored), float32, bfloat16, float16 or float64.")]
FP8 = Annotated[
    FP8Choice,
    typer.Option(
        "--fp8-projections",
        help="Of a checkpoint that has them: auto wants an H100 or H200, emulate does the same anywhere and slowly, "
        "exact adds otherwise, off leaves them out; what that costs is said where it matters.",
    ),
]
Weights = Annotated[
    WeightsChoice,
    typer.Option(
        "--weights", help="fp8 rounds linear layers to one byte a weight: half the memory, a little less exact."
    ),
]
TensorParallel = Annotated[
    int,
    typer.Option(
        "--tensor-parallel",
        min=1,
        help="Processes that share every layer, one CUDA device each (or the CPU): for networks too large for one.",
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
