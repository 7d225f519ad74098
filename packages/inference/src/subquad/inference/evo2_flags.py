"""What the aliases ``infer_evo2`` and ``predict_evo2`` share: the flags that both have, and why some are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from subquad.inference.commands.program import run_application
from subquad.inference.errors import InvalidOption

ONE_MACHINE = "this command runs on one machine"
SHARED_LAYERS = "several devices share every layer; see --tensor-parallel-size"
IN_THE_CHECKPOINT = "the checkpoint says it; leave the flag out"

CheckpointFolder = Annotated[Path, typer.Option("--ckpt-dir", help="A native checkpoint directory.")]
TensorParallel = Annotated[
    int,
    typer.Option(
        "--tensor-parallel-size", min=1, help="Processes that share every layer, one CUDA device each, or the CPU."
    ),
]
PipelineParallel = Annotated[
    int, typer.Option("--pipeline-model-parallel-size", help="Accepted: 1; see --tensor-parallel-size.")
]
ContextParallel = Annotated[
    int, typer.Option("--context-parallel-size", help="Accepted: 1; see --tensor-parallel-size.")
]
PrecisionRecipe = Annotated[
    str | None,
    typer.Option(
        "--mixed-precision-recipe",
        help="Accepted: bf16_mixed; default: the type of the checkpoint (on a CPU float32 for a 16-bit one).",
    ),
]
VortexStyleFP8 = Annotated[bool, typer.Option("--vortex-style-fp8", help="Demand a checkpoint with FP8 projections.")]
FusedOperators = Annotated[
    bool | None,
    typer.Option(
        "--use-subquadratic-ops/--no-use-subquadratic-ops",
        help="Demand fused operators, or run their parts one by one; default: what is faster. Decode is the same.",
    ),
]


def refuse_unless(flag: str, value: object, accepted: object, reason: str) -> None:
    """Refuses a value of a flag other than the accepted one.

    Raises:
      InvalidOption: Names the flag, the value, what is accepted, and the reason.
    """
    if value != accepted:
        raise InvalidOption(flag, value, f"{accepted!r}; {reason}")


def check_parallel(pipeline: int, context: int) -> None:
    """Refuses layers or sequences that are split over devices.

    Raises:
      InvalidOption: A size is not 1.
    """
    for flag, value in (("--pipeline-model-parallel-size", pipeline), ("--context-parallel-size", context)):
        refuse_unless(flag, value, 1, SHARED_LAYERS)


def dtype_of(recipe: str | None) -> str:
    """Returns the type of a precision recipe.

    Raises:
      InvalidOption: Another recipe than bf16_mixed.
    """
    if recipe is None:
        return "auto"
    reason = "other recipes change layers whose precision is a matter of the checkpoint; see --dtype of `subquad score`"
    refuse_unless("--mixed-precision-recipe", recipe, "bf16_mixed", reason)
    return "bfloat16"


def check_checkpoint(folder: Path) -> None:
    """Says how to convert a checkpoint of the tools whose flags these are.

    Raises:
      InvalidOption: The folder is one.
    """
    if folder.name.startswith("iter_") or (folder / "latest_checkpointed_iteration.txt").exists():
        accepted = "a native checkpoint; `subquad convert --from mbridge --to native` makes one"
        raise InvalidOption("--ckpt-dir", str(folder), accepted)


def require_fp8(model: object, *, vortex_style_fp8: bool) -> None:
    """Refuses a demand for FP8 input projections where the checkpoint has none; where it has, they run in any case.

    Raises:
      InvalidOption: It has none.
    """
    if vortex_style_fp8 and not getattr(model, "fp8_projections", False):
        accepted = "left out: this checkpoint has no FP8 projections, and their scales cannot be made up"
        raise InvalidOption("--vortex-style-fp8", True, accepted)


def run_alone(command: Callable[..., Any], name: str) -> None:
    """Runs one command as a program of its own."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_application(app, name)
