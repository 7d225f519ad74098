"""What a training run is made of: plain values, checked when they are set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from subquad.recipes.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which sequences are trained on, and which of their bases are held out.

    Attributes:
      genomes: FASTA files (plain or gzip); `"lambda_phage"` and `"phix174"` are the genomes that ship with the package.
      window: Targets of one training window, 16 or more.
      held_out: The share of the bases to hold out, above 0 and at most 0.5.
      hold_out_by: `"block"` holds out blocks of every record, `"record"` whole records.
      held_out_block: Length of a held-out block in bases, 16 or more.
      both_strands: Whether windows are drawn from the reverse complement as often as from the sequence.
      upper_case: Whether lower case (repeats) becomes upper case, and so full loss weight.
      seed: Chooses the held-out part.
    """

    genomes: Sequence[str] = ("lambda_phage",)
    window: int = 512
    held_out: float = 0.1
    hold_out_by: str = "block"
    held_out_block: int = 1024
    both_strands: bool = True
    upper_case: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        several = not isinstance(self.genomes, str) and len(self.genomes) > 0
        _check("data.genomes", self.genomes, several, "a list of one file or more")
        _whole("data.window", self.window, 16)
        share = self.held_out
        _check("data.held_out", share, _number(share) and 0 < share <= 0.5, "a number above 0 and at most 0.5")
        _one_of("data.hold_out_by", self.hold_out_by, "block", "record")
        _whole("data.held_out_block", self.held_out_block, 16)


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """How targets are weighted; the defaults are those that Evo 2 was trained with.

    Attributes:
      lowercase_weight: Weight of a lower-case target (a repeat), 0 to 1; its label is compared in upper case.
      normalization: `"normalized_weighted"` divides by the sum of the weights, `"weighted"` by the number of
        targets whose weight is not 0.
      mask_end_of_document: Whether end-of-document and padding tokens are no targets.
    """

    lowercase_weight: float = 0.1
    normalization: str = "normalized_weighted"
    mask_end_of_document: bool = True

    def __post_init__(self) -> None:
        weight = self.lowercase_weight
        _check("loss.lowercase_weight", weight, _number(weight) and 0 <= weight <= 1, "a number from 0 to 1")
        _one_of("loss.normalization", self.normalization, "normalized_weighted", "weighted")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with a linear warm-up and a cosine down to `final_learning_rate` at the last step.

    Attributes:
      learning_rate: The highest rate, above 0.
      final_learning_rate: The rate at the last step, 0 to `learning_rate`.
      warmup_steps: Steps of linear warm-up, 0 or more.
      weight_decay: Decoupled decay of the parameters that are not exempt, 0 or more.
      beta1: Decay of the mean of gradients, 0 to 1.
      beta2: Decay of the mean of their squares, 0 to 1.
      clip: Largest norm of the gradient of all parameters, above 0.
    """

    learning_rate: float = 3e-4
    final_learning_rate: float = 3e-5
    warmup_steps: int = 2500
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0

    def __post_init__(self) -> None:
        rate = self.learning_rate
        _check("optimizer.learning_rate", rate, _number(rate) and rate > 0, "a finite number above 0")
        final = self.final_learning_rate
        below = _number(final) and 0 <= final <= rate
        _check("optimizer.final_learning_rate", final, below, f"a number from 0 to {rate}")
        _whole("optimizer.warmup_steps", self.warmup_steps, 0)
        decay = self.weight_decay
        _check("optimizer.weight_decay", decay, _number(decay) and decay >= 0, "a finite number of at least 0")
        for name in ("beta1", "beta2"):
            beta = getattr(self, name)
            _check(f"optimizer.{name}", beta, _number(beta) and 0 <= beta < 1, "a number from 0 to below 1")
        _check("optimizer.clip", self.clip, _number(self.clip) and self.clip > 0, "a finite number above 0")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long and on what a run trains.

    Attributes:
      steps: Optimiser steps, 1 or more.
      batch_size: Windows of one step and process, 1 or more.
      micro_batch_size: Windows of one pass through the network, 1 to `batch_size`; a step adds up the gradients of its
        passes (gradient accumulation), so that memory holds one pass. None passes all windows of a step at once.
      validate_every: Steps between two measurements of the held-out bits per base.
      save_every: Steps between two resume points.
      seed: Chooses the initial weights and the training windows.
      accelerator: `"auto"` takes a CUDA GPU where there is one.
      devices: GPUs, or processes on a CPU, that share every step, 1 or more: each passes `batch_size` windows of its
        own through the network, and all take the step that one would with all their windows. See `train`.
      precision: Lightning's name of the arithmetic, such as `"32-true"` or `"bf16-mixed"`.
      threads: CPU threads of torch, 1 or more; None leaves the number as it is. A small network gains nothing from a
        second thread, and loses much where another program wants the core.
      initial_checkpoint: A native checkpoint to go on from (fine-tuning): its network with its weights takes the place
        of `model`. None trains new weights.
      use_subquadratic_ops: Fused operators in forward passes of the network: True demands them, False runs their parts
        one by one, None leaves the choice to the network; see `StripedHyena2`.
    """

    steps: int = 1000
    batch_size: int = 8
    micro_batch_size: int | None = None
    validate_every: int = 100
    save_every: int = 100
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    threads: int | None = None
    initial_checkpoint: str | None = None
    use_subquadratic_ops: bool | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "save_every", "devices"):
            _whole(f"run.{name}", getattr(self, name), 1)
        micro, most = self.micro_batch_size, self.batch_size
        fits = micro is None or (isinstance(micro, int) and not isinstance(micro, bool) and 1 <= micro <= most)
        _check("run.micro_batch_size", micro, fits, f"a whole number from 1 to {most}, which is run.batch_size")
        _whole("run.seed", self.seed, 0)
        _one_of("run.accelerator", self.accelerator, "auto", "cpu", "gpu")
        if self.threads is not None:
            _whole("run.threads", self.threads, 1)
        start = self.initial_checkpoint
        _check("run.initial_checkpoint", start, start is None or (isinstance(start, str) and start != ""), "a folder")
        fused = self.use_subquadratic_ops
        _check("run.use_subquadratic_ops", fused, fused is None or isinstance(fused, bool), "None, True or False")
        _one_of("run.precision", self.precision, "32-true", "64-true", "bf16-mixed", "bf16-true")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Fine-tuning by corrections of low rank (LoRA) of `run.initial_checkpoint`, whose weights stay as they are.

    `layer(x) + alpha / rank * dropout(x) @ down.T @ up.T`, and only `down` and `up` are trained and saved.

    Attributes:
      rank: Rows of `down` and columns of `up`; 0 trains all weights of the network instead.
      alpha: Size of the corrections, above 0.
      dropout: Share of their inputs that are zero in a training step, 0 to below 1.
      targets: The layers that get one, by their names in the network or the ends of those, such as `"mlp.l1"` for that
        of every block. None takes the projections in front of and behind every mixer and the matrices of the MLPs.
    """

    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.1
    targets: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _whole("lora.rank", self.rank, 0)
        _check("lora.alpha", self.alpha, _number(self.alpha) and self.alpha > 0, "a finite number above 0")
        share = self.dropout
        _check("lora.dropout", share, _number(share) and 0 <= share < 1, "a number from 0 to below 1")
        names = self.targets
        several = names is None or (not isinstance(names, str) and len(names) > 0)
        _check("lora.targets", names, several, "None or a list of one name or more")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A whole run. In a configuration file this is the outermost `LazyConfig` target.

    Attributes:
      model: A network that maps ids [batch, length] to logits [batch, length, vocabulary], such as `StripedHyena2`; its
        `embedding_layer` is an `nn.Embedding`, and its class can be imported and takes `device` and `dtype`.
      data: See `DataSettings`.
      loss: See `LossSettings`.
      optimizer: See `OptimizerSettings`.
      run: See `RunSettings`.
      lora: See `LoraSettings`.
    """

    model: nn.Module
    data: DataSettings = field(default_factory=DataSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    run: RunSettings = field(default_factory=RunSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        based = self.lora.rank == 0 or self.run.initial_checkpoint is not None
        _check("lora.rank", self.lora.rank, based, "0 without run.initial_checkpoint, the network to correct")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(name: str, value: object, *accepted: str) -> None:
    _check(name, value, value in accepted, " or ".join(map(repr, accepted)))


def _whole(name: str, value: object, least: int) -> None:
    accepted = isinstance(value, int) and not isinstance(value, bool) and value >= least
    _check(name, value, accepted, f"a whole number of at least {least}")


def _check(name: str, value: object, accepted: bool, what: str) -> None:
    if not accepted:
        raise SettingError(name, value, what)
