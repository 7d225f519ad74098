"""`subquad train`: a configuration file in, a trained checkpoint and its report out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subquad.recipes.commands.failures import failures_in_one_line

if TYPE_CHECKING:
    from subquad.recipes.training import TrainingResult


def train(
    config: Annotated[Path, typer.Argument(help="A Python file with config(), or 'small' for the shipped one.")],
    output: Annotated[Path, typer.Option(help="The folder to write to; new or empty, unless --resume is given.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value…", help="Changes of settings, such as run.steps=50."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the resume point in the output folder.")] = False,
    progress: Annotated[bool, typer.Option(help="Show progress on stderr.")] = True,
    initial_checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Same as run.initial_checkpoint=…: go on from a native checkpoint, its network in place of model."
        ),
    ] = None,
    use_subquadratic_ops: Annotated[
        bool | None,
        typer.Option(
            "--use-subquadratic-ops/--no-use-subquadratic-ops",
            help="Same as run.use_subquadratic_ops=…: demand fused operators, or run their parts one by one.",
        ),
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
) -> None:
    """Train a network on genomes and report held-out bits per base beside Markov baselines."""
    from subquad.recipes.errors import TrainingInterrupted

    changes = list(overrides or [])
    if use_subquadratic_ops is not None:
        changes.append(f"run.use_subquadratic_ops={use_subquadratic_ops}")
    if initial_checkpoint is not None:
        changes.append(f"run.initial_checkpoint={initial_checkpoint}")
    with failures_in_one_line(traceback=traceback):
        try:
            result = _run(config, changes, output, resume=resume, progress=progress)
        except TrainingInterrupted as stop:
            typer.echo(f"{stop}", err=True)
            raise typer.Exit(128 + stop.signal_number) from None
    _report(result)


def _run(config: Path, overrides: list[str], output: Path, *, resume: bool, progress: bool) -> "TrainingResult":
    from subquad.lazy_config import apply_overrides, load_config_file
    from subquad.recipes.errors import MissingFileError, SettingError
    from subquad.recipes.training import train
    from subquad.recipes.training.run import initial_checkpoint_of

    if not config.is_file():
        shipped = Path(__file__).parent.parent / "configs" / f"{config}.py"
        if not shipped.is_file():
            raise MissingFileError(config, what="configuration file")
        config = shipped
    tree = apply_overrides(load_config_file(config), overrides)
    changed = next((word for word in overrides if word.lstrip("+~").startswith(("model.", "model="))), None)
    if changed is not None and initial_checkpoint_of(tree) is not None:
        accepted = "no change of the network that run.initial_checkpoint gives"
        raise SettingError("model", changed, accepted)
    return train(tree, output=output, resume=resume, progress=progress)


def _report(result: "TrainingResult") -> None:
    typer.echo(f"held-out bits per base over {result.held_out_bases} bases after {result.steps} steps:")
    typer.echo(f"  network              {result.held_out_bits:.4f}")
    typer.echo(f"  order-0 entropy      {result.order0_entropy:.4f}")
    for order, bits in result.baselines.items():
        typer.echo(f"  Markov order {order}       {bits:.4f}")
    files = f"{result.checkpoint.name}, metrics.jsonl and loss.png"
    typer.echo(f"trained for {result.seconds:.0f} s; {files} are in {result.output}")
