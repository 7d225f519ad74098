"""Runs a training from a configuration to a checkpoint and its report."""

import json
import logging
import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from subquad.inference import ByteTokenizer, load_checkpoint, save_checkpoint
from subquad.lazy_config import Config, LazyConfig, LazyConfigError, derive, diff, from_yaml, instantiate, to_yaml
from subquad.recipes._atomic import write_atomically
from subquad.recipes.baselines import markov_bits_per_base, order0_entropy
from subquad.recipes.data.split import Split
from subquad.recipes.errors import OutputExistsError, ResumeError, SettingError, SplitError, TrainingInterrupted
from subquad.recipes.finetuning.adapter_file import (
    ADAPTER_FILE,
    Adapter,
    BaseCheckpoint,
    adapter_tensors,
    save_adapter,
)
from subquad.recipes.training.callbacks import CourseLog, ProgressLine, ResumePoint, StopRequested
from subquad.recipes.training.checkpoint_io import StraightToDisk
from subquad.recipes.training.low_rank import CorrectionsOnly, adapt, check_resume_point
from subquad.recipes.training.metrics import draw_course
from subquad.recipes.training.module import LanguageModelTraining
from subquad.recipes.training.processes import joined_processes, process_rank
from subquad.recipes.training.sequences import GenomeWindows, load_split
from subquad.recipes.training.settings import LoraSettings, LossSettings, RunSettings, TrainingConfig

BASELINE_ORDERS = range(7)
"""The Markov models that a run is compared with."""

_FREE_ON_RESUME = frozenset({"run.validate_every", "run.save_every", "run.threads", "run.micro_batch_size"})

_NOTICES = (
    ".*does not have many workers.*",
    ".*ended before the epoch ended.*",
    ".*GPU available but.*",
    ".*LeafSpec.*deprecated.*",
)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run left behind, and how good it is.

    Attributes:
      output: The folder of everything below.
      checkpoint: The native checkpoint, a folder for `Engine.from_checkpoint`; of a run with LoRA the adapter's file,
        for `merge_adapter`.
      resume_point: The Lightning checkpoint that `resume` starts from.
      metrics: The course of the run, one JSON object per line.
      loss_image: Its picture, a PNG.
      summary: The numbers below as JSON.
      steps: Optimiser steps done.
      held_out_bits: Bits per held-out base of the trained network.
      baselines: Bits per held-out base of Markov models, by order, fitted to the training part (both strands if the
        network saw both).
      order0_entropy: Entropy of the base frequencies of the held-out part itself, in bits per base.
      held_out_bases: Number of bases scored.
      seconds: Time spent training, over all resumed parts.
    """

    output: Path
    checkpoint: Path
    resume_point: Path
    metrics: Path
    loss_image: Path
    summary: Path
    steps: int
    held_out_bits: float
    baselines: dict[int, float]
    order0_entropy: float
    held_out_bases: int
    seconds: float


def train(
    config: Config[TrainingConfig], *, output: str | Path, resume: bool = False, progress: bool = True
) -> TrainingResult:
    """Trains the network of a configuration and writes checkpoint, metrics and loss curve to a folder.

    The same configuration, seed and machine give the same weights, whether the run was interrupted and resumed or not.
    With `run.initial_checkpoint` the network and its first weights are those of the checkpoint, and `model` of the
    configuration is not used. With `lora.rank` its weights stay as they are, and resume points and the result hold the
    corrections alone. With several `run.devices` the program starts itself once more for each further one, by its
    own arguments; these copies begin at its beginning, join at this call and end with it. So it comes to one such call
    alone, and trains nothing before.

    Args:
      config: A tree whose target is `TrainingConfig`; it is not changed.
      output: The folder to write to: a new or empty one, or with `resume` that of an earlier run.
      resume: Whether to go on from the resume point in `output`, if there is one.
      progress: Whether a progress bar is shown on stderr.

    Raises:
      RecipeError: A setting, a genome file or the output folder cannot be used; nothing was written.
      InferenceError: `run.initial_checkpoint` is no checkpoint that can be read; nothing was written.
      AdapterBaseError: The corrections to go on with are of another checkpoint than `run.initial_checkpoint` is now.
      TrainingDiverged: The loss or a gradient is not finite; the resume point is that of an earlier step.
      OSError: The disk is full, or the output cannot be written; an earlier resume point is still there.
      TrainingInterrupted: Ctrl-C or SIGTERM came; a resume point was written.
    """
    output = Path(output)
    resume_point = output / "resume.ckpt"
    worker = _devices(config) > 1 and process_rank() > 0
    config, network = _initial_network(config, output / "config.yaml" if resume and resume_point.is_file() else None)
    resuming = resume and resume_point.is_file() if worker else _check_output(output, resume_point, config, resume)
    pl.seed_everything(_seed(config), verbose=False)
    settings = _settings(config, network)
    _choose_operators(settings)
    base = None if settings.lora.rank == 0 else _adapt(settings, resume_point if resuming else None)
    split = load_split(settings.data)
    _check_targets(split, settings.loss)
    module = _training_module(settings)
    module.strict_loading = base is None  # else resume points lack what is not trained
    windows = GenomeWindows(split, settings.data, settings.run)
    saver = ResumePoint(resume_point, every=settings.run.save_every, validate_every=settings.run.validate_every)
    log = CourseLog(output / "metrics.jsonl")
    with _quiet_lightning(), _threads(settings.run.threads), joined_processes(settings.run.devices, worker=worker):
        corrections = [] if base is None else [CorrectionsOnly(base)]
        callbacks = [log, saver, *corrections, *([ProgressLine()] if progress else [])]
        trainer = build_trainer(settings, callbacks, output)
        if not worker:
            _begin(output, config)
        try:
            with saver.watching_interrupts():
                trainer.fit(module, windows, ckpt_path=resume_point if resuming else None, weights_only=True)
            if not log.course or log.course[-1].step < settings.run.steps:
                trainer.validate(module, windows, verbose=False)
        except (StopRequested, SIGTERMException):
            number = saver.signal_number or signal.SIGTERM
            raise TrainingInterrupted(resume_point, trainer.global_step, number) from None
    return _write_report(config, settings, split, output, log, base)


def initial_checkpoint_of(config: Config[TrainingConfig]) -> str | None:
    """Returns `run.initial_checkpoint`, None where it is not set."""
    try:
        start = config.run.initial_checkpoint
    except AttributeError:
        return None
    return start if isinstance(start, str) and start else None  # anything else is refused by `RunSettings`


def _initial_network(
    config: Config[TrainingConfig], begun: Path | None
) -> tuple[Config[TrainingConfig], nn.Module | None]:
    """Puts the network of `run.initial_checkpoint` into the tree; `begun` is the saved tree of a run to go on with.

    Returns:
      The tree, and the network with its weights where the run does not have them itself.
    """
    start = initial_checkpoint_of(config)
    if start is None:
        return config, None
    if begun is not None:
        config = derive(config, {"model": _saved_tree(begun, config).model})
        if not _is_corrected(config):
            return config, None
    loaded = load_checkpoint(start, device="cpu")
    if not isinstance(loaded.tokenizer, ByteTokenizer):
        raise SettingError("run.initial_checkpoint", start, "a checkpoint with the byte tokenizer")
    if begun is None:
        config = derive(config, {"model": loaded.config})
    return config, loaded.model.train()


def _is_corrected(config: Config[TrainingConfig]) -> bool:
    """Says whether a run trains corrections of low rank, and so needs its base again when it is resumed."""
    try:
        rank = config.lora.rank
    except AttributeError:
        return False
    return isinstance(rank, int) and rank > 0  # anything else is refused by `LoraSettings`


def _adapt(settings: TrainingConfig, begun: Path | None) -> BaseCheckpoint:
    """Gives the network its corrections; those of a run to go on with, at ``begun``, must be of the same base."""
    base = BaseCheckpoint.at(str(settings.run.initial_checkpoint))
    adapt(settings.model, settings.lora)
    if begun is not None:
        check_resume_point(begun, settings.model, base)
    return base


def _settings(config: Config[TrainingConfig], network: nn.Module | None) -> TrainingConfig:
    """Builds the settings, with a network that is there already or a new one."""
    settings = instantiate(config if network is None else derive(config, {"model": LazyConfig(nn.Identity)()}))
    if not isinstance(settings, TrainingConfig):
        raise SettingError("config()", settings, "a tree whose target is subquad.recipes.training.TrainingConfig")
    settings = settings if network is None else replace(settings, model=network)
    if not isinstance(getattr(settings.model, "embedding_layer", None), nn.Embedding):  # else it could not be saved
        accepted = "a network of tokens, whose embedding_layer is an nn.Embedding, such as StripedHyena2"
        raise SettingError("model", type(settings.model).__name__, accepted)
    try:
        instantiate(config.model, device=torch.device("meta"), dtype=torch.float32)
    except LazyConfigError as error:
        accepted = f"a class that also takes device and dtype, as those of subquad.modules do: {error}"
        raise SettingError("model", type(settings.model).__name__, accepted) from error
    return settings


def _begin(output: Path, config: Config[TrainingConfig]) -> None:
    """Makes the folder of a run, or takes away what a kill left half written there."""
    output.mkdir(parents=True, exist_ok=True)
    for part in output.glob(".*.part*"):
        part.unlink()
    write_atomically(output / "config.yaml", lambda path: path.write_text(to_yaml(config), "utf-8"))


def _training_module(settings: TrainingConfig) -> LanguageModelTraining:
    if settings.run.precision == "64-true":  # which Lightning does too, but only when it has read the resume point
        settings.model.double()
    return LanguageModelTraining(
        settings.model,
        steps=settings.run.steps,
        loss=settings.loss,
        optimizer=settings.optimizer,
        micro_batch_size=settings.run.micro_batch_size,
        seed=settings.run.seed,
    )


def _check_targets(split: Split, loss: LossSettings) -> None:
    """Refuses to train on, or to measure, a part in which no base counts."""
    counted = np.frombuffer(b"ACGTacgt" if loss.lowercase_weight > 0 else b"ACGT", np.uint8)
    for part, documents in (("training", split.training), ("held-out", split.held_out)):
        if not any(np.isin(document[1:], counted).any() for document in documents):
            bases = sum(map(len, documents))
            raise SplitError(f"the {part} part has {bases} bases, none of them a target; accepted are A, C, G and T")


def _choose_operators(settings: TrainingConfig) -> None:
    """Tells the network whether its operators are to be fused, where the settings say so."""
    fused = settings.run.use_subquadratic_ops
    if fused is None:
        return
    if not hasattr(settings.model, "use_subquadratic_ops"):
        kind = type(settings.model).__name__
        raise SettingError("run.use_subquadratic_ops", fused, f"None, since a {kind} has no such choice")
    settings.model.use_subquadratic_ops = fused  # type: ignore[assignment]


def build_trainer(settings: TrainingConfig, callbacks: list[pl.Callback], output: Path) -> pl.Trainer:
    """Builds the Lightning trainer of a run; its own logger, checkpoints and progress bar are off."""
    accelerator = settings.run.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    elif accelerator == "gpu" and not torch.cuda.is_available():
        raise SettingError("run.accelerator", "gpu", "'cpu' or 'auto': this machine has no CUDA GPU that torch can use")
    devices = settings.run.devices
    if accelerator == "gpu" and devices > torch.cuda.device_count():
        raise SettingError("run.devices", devices, f"1 to {torch.cuda.device_count()}, the GPUs that torch can use")
    return pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy="auto"
        if devices == 1
        else DDPStrategy(forward_sync_buffers=False),  # ranks validate at their own pace
        precision=cast(Any, settings.run.precision),
        max_steps=settings.run.steps,
        max_epochs=-1,
        val_check_interval=settings.run.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.optimizer.clip,
        callbacks=callbacks,
        plugins=[StraightToDisk()],
        default_root_dir=output,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _check_output(output: Path, resume_point: Path, config: Config[TrainingConfig], resume: bool) -> bool:
    """Says whether there is a resume point to go on from; a run that was stopped before the first one starts anew."""
    if output.exists() and not output.is_dir():
        raise OutputExistsError(output)
    if not resume:
        if output.is_dir() and any(output.iterdir()):
            raise OutputExistsError(output)
        return False
    if not (output / "config.yaml").is_file():
        raise ResumeError(f"{output}: holds no run to go on with; start one without --resume")
    _check_same_run(output / "config.yaml", config)
    return resume_point.is_file()


def _check_same_run(saved: Path, config: Config[TrainingConfig]) -> None:
    """Refuses to resume what another configuration has begun, except for fields that leave the course as it is."""
    before, config = (_with_lora(tree) for tree in (_saved_tree(saved, config), config))
    changed = [change.path for change in diff(before, config) if change.path not in _FREE_ON_RESUME]
    if changed:
        free = ", ".join(sorted(_FREE_ON_RESUME))
        raise ResumeError(f"{saved}: the run there has other {', '.join(changed)}; accepted changes are {free}")


def _with_lora(config: Config[TrainingConfig]) -> Config[TrainingConfig]:
    """Spells out the default of a part that earlier versions did not have."""
    return config if hasattr(config, "lora") else derive(config, {"lora": LazyConfig(LoraSettings)()})


def _saved_tree(path: Path, config: Config[TrainingConfig]) -> Config[TrainingConfig]:
    """Reads the tree of a run; it may name the classes that the present configuration names, and ours."""
    return from_yaml(path.read_text("utf-8"), allowed=_named(config), name=str(path))


def _named(config: Config[Any]) -> tuple[str, ...]:
    """Returns ours and the names of the classes that a tree holds, as an allow-list."""
    return ("subquad.", *re.findall(r"\b(?:_target_|_import_): '?([\w.:]+)", to_yaml(config)))


def _devices(config: Config[TrainingConfig]) -> int:
    try:
        devices = config.run.devices
    except AttributeError:
        return RunSettings().devices
    return devices if isinstance(devices, int) else 1  # which `RunSettings` refuses


def _seed(config: Config[TrainingConfig]) -> int:
    """Reads the seed before the model, whose weights depend on it, is built."""
    try:
        seed = config.run.seed
    except AttributeError:
        return RunSettings().seed
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise SettingError("run.seed", seed, "a whole number from 0 to 4294967295")
    return seed


def _write_report(
    config: Config[TrainingConfig],
    settings: TrainingConfig,
    split: Split,
    output: Path,
    log: CourseLog,
    base: BaseCheckpoint | None,
) -> TrainingResult:
    """Writes the checkpoint or the adapter, the curve and the numbers of a finished run."""
    last = log.course[-1]
    assert last.held_out_bits is not None
    both = settings.data.both_strands
    baselines = {
        order: markov_bits_per_base(split.training, split.held_out, order, both_strands=both)
        for order in BASELINE_ORDERS
    }
    result = TrainingResult(
        output=output,
        checkpoint=output / ("checkpoint" if base is None else ADAPTER_FILE),
        resume_point=output / "resume.ckpt",
        metrics=output / "metrics.jsonl",
        loss_image=output / "loss.png",
        summary=output / "summary.json",
        steps=last.step,
        held_out_bits=last.held_out_bits,
        baselines=baselines,
        order0_entropy=order0_entropy(split.held_out),
        held_out_bases=sum(len(document) - 1 for document in split.held_out),
        seconds=last.seconds,
    )
    numbers = {name: value for name, value in asdict(result).items() if not isinstance(value, Path)}
    if base is None:
        _replace_checkpoint(result.checkpoint, settings, config, numbers)
    else:
        targets = sorted({name.rpartition(".")[0] for name in adapter_tensors(settings.model)})
        recipe = _recipe(settings, numbers) | {"lora": asdict(settings.lora)}
        described = Adapter(
            base=base, rank=settings.lora.rank, alpha=settings.lora.alpha, targets=targets, recipe=recipe
        )
        save_adapter(result.checkpoint, settings.model, described)
    draw_course(result.loss_image, log.course, baselines)
    write_atomically(result.summary, lambda path: path.write_text(json.dumps(numbers, indent=2) + "\n", "utf-8"))
    return result


def _replace_checkpoint(
    path: Path, settings: TrainingConfig, config: Config[TrainingConfig], numbers: dict[str, object]
) -> None:
    """Saves the native checkpoint; one that a resumed run left there before is replaced."""
    metadata = {"recipe": _recipe(settings, numbers)}
    names = _named(config.model)
    save_checkpoint(path, settings.model.cpu(), config.model, metadata=metadata, overwrite=True, allowed_targets=names)


def _recipe(settings: TrainingConfig, numbers: dict[str, object]) -> dict[str, object]:
    """Returns what a trained network's file says of its training."""
    start = settings.run.initial_checkpoint
    recipe: dict[str, object] = {"genomes": list(settings.data.genomes), "seed": settings.run.seed, **numbers}
    return recipe if start is None else {**recipe, "initial_checkpoint": start}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Gives torch `count` CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's notices about hardware and data loaders away from a command's output."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _NOTICES:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
