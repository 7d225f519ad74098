"""Training by corrections of low rank: which layers get one, and resume points that hold nothing else."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from subquad.modules import ConfigurationError, adapt_linears
from subquad.recipes.errors import ResumeError, SettingError
from subquad.recipes.finetuning.adapter_file import BaseCheckpoint, adapter_tensors
from subquad.recipes.training.settings import LoraSettings

LINEARS = ("projections", "out_filter_dense", "Wqkv", "out_proj", "l1", "l2", "l3")
"""What `LoraSettings.targets` stands for where it is None: both projections of every mixer, the matrices of MLPs."""


def adapt(network: nn.Module, settings: LoraSettings) -> list[str]:
    """Gives the layers of a network their corrections, drawn as `torch.manual_seed` says; returns the layers' names.

    Raises:
      SettingError: A target names no plain linear layer of the network.
    """
    targets = settings.targets
    if targets is None:
        there = {name.rpartition(".")[2] for name, _ in network.named_modules()}
        targets = [name for name in LINEARS if name in there]
    if not targets:
        accepted = f"names of linear layers, since a {type(network).__name__} has none of {', '.join(LINEARS)}"
        raise SettingError("lora.targets", settings.targets, accepted)
    try:
        return adapt_linears(network, targets, rank=settings.rank, alpha=settings.alpha, dropout=settings.dropout)
    except ConfigurationError as error:
        raise SettingError("lora.targets", settings.targets, f"names of plain linear layers: {error}") from error


class CorrectionsOnly(pl.Callback):
    """Leaves the weights that are not trained out of resume points, and writes down whose they are."""

    def __init__(self, base: BaseCheckpoint) -> None:
        self._base = base

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes them out of what is about to be written."""
        trained, every = adapter_tensors(pl_module), checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: tensor for name, tensor in every.items() if name in trained}
        checkpoint["base"] = asdict(self._base)


def check_resume_point(path: Path, network: nn.Module, base: BaseCheckpoint) -> None:
    """Refuses a resume point that was trained on another base, or holds other tensors than the network needs.

    Raises:
      AdapterBaseError: It was another base.
      ResumeError: The tensors are others.
    """
    point = torch.load(path, weights_only=True, map_location="cpu")
    BaseCheckpoint(**point["base"]).require(base, what=str(path))
    different = {f"model.{name}" for name in adapter_tensors(network)} ^ set(point["state_dict"])
    if different:
        raise ResumeError(f"{path}: it holds other corrections, by {min(different)}; train anew")
