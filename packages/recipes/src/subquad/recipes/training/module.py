"""The network as Lightning trains it: loss, optimiser, held-out bits per base."""

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from subquad.recipes.data.windows import EvaluationWindow
from subquad.recipes.errors import TrainingDiverged
from subquad.recipes.training.loss import loss_divisor, next_token_loss, target_nats, target_weights
from subquad.recipes.training.optimizer import build_optimizer, build_schedule
from subquad.recipes.training.settings import LossSettings, OptimizerSettings

NATS_PER_BIT = math.log(2)


class LanguageModelTraining(pl.LightningModule):
    """Trains a network that maps ids [batch, length] to logits [batch, length, vocabulary].

    After each step `train_bits` holds the loss in bits per target; after each validation `held_out_bits` the mean
    over all scored held-out bases, without loss weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        loss: LossSettings | None = None,
        optimizer: OptimizerSettings | None = None,
        micro_batch_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Wraps `model`.

        Args:
          model: The network.
          steps: The length of the learning-rate schedule in optimiser steps.
          loss: None takes the defaults, for `optimizer` too.
          optimizer: See `OptimizerSettings`.
          micro_batch_size: Windows of one pass through the network; see `RunSettings`.
          seed: Where given, dropout of step n depends on it and n alone, so that a resumed run goes on exactly.
        """
        super().__init__()
        self.model = model
        self._steps = steps
        self._micro_batch_size, self._seed = micro_batch_size, seed
        self._loss = loss or LossSettings()
        self._optimizer = optimizer or OptimizerSettings()
        self.train_bits = math.nan
        self.held_out_bits = math.nan
        self._several = False
        self._sums = torch.zeros(2, dtype=torch.float64)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the logits `[batch, length, vocabulary]` of `ids`, `[batch, length]`."""
        return self.model(ids)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Passes the windows of a step `[batch, window + 1]` through the network, `micro_batch_size` at a time.

        The weighted loss of every pass, in nats, is divided by the targets of the whole step. All passes but the last
        go backward here; the loss of the last is returned, for Lightning to do so.

        Raises:
          TrainingDiverged: The loss of the step is not finite.
        """
        if self._seed is not None:
            torch.manual_seed(_seed_of_step(self._seed, self.trainer.global_step, self.global_rank))
        size = self._micro_batch_size or len(batch)
        self._several = len(batch) > size
        if self._several and batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.zero_grad()
        weights = self._weights(batch)
        divisor = self._divisor(weights)
        losses: list[Tensor] = []
        for ids, own in zip(batch.split(size), weights.split(size), strict=True):
            if losses:
                self._backward_early(losses[-1])
                losses[-1] = losses[-1].detach()
            losses.append(next_token_loss(self(ids[:, :-1]), ids, own, divisor=divisor))
        self.train_bits = self._mean_over_processes(torch.stack(losses).detach().sum()).item() / NATS_PER_BIT
        self._check_finite("loss", self.train_bits)
        return losses[-1]

    def _divisor(self, weights: Tensor) -> Tensor:
        """Counts the targets of a step, per process: gradients are averaged over those, and so are losses."""
        return self._mean_over_processes(loss_divisor(weights.double(), normalization=self._loss.normalization))

    def _mean_over_processes(self, value: Tensor) -> Tensor:
        if self._trainer is None or self._trainer.world_size == 1:
            return value
        mean = self._trainer.strategy.reduce(value, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Empties the gradients, unless they are those of earlier passes of this step."""
        if not self._several:
            optimizer.zero_grad()

    def _backward_early(self, loss: Tensor) -> None:
        """Adds the gradient of one pass, outside of the autocast that passes run in."""
        with torch.autocast(loss.device.type, enabled=False):
            (loss / self.trainer.accumulate_grad_batches).backward()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of the whole gradient, and refuses one that is not finite before it reaches a weight."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)
        self._check_finite("norm of the gradient", norm.item())

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
            raise TrainingDiverged(self.trainer.global_step + 1, what, value, rate)

    def on_validation_epoch_start(self) -> None:
        """Starts the sums over the held-out bases."""
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: EvaluationWindow, batch_idx: int) -> None:
        """Adds the bits of the bases that these windows score."""
        ids, scored = batch
        nats = target_nats(self(ids[:, :-1]), ids)
        counted = scored & (self._weights(ids) > 0)
        self._sums += torch.stack([nats[counted].double().sum(), counted.sum().double()])

    def on_validation_epoch_end(self) -> None:
        """Computes the held-out bits per base over all processes."""
        nats, count = self.trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        self.held_out_bits = nats / NATS_PER_BIT / count if count else math.nan

    def configure_optimizers(self) -> Any:
        """Builds AdamW and its schedule."""
        optimizer = build_optimizer(self.model, self._optimizer)
        schedule = build_schedule(optimizer, self._optimizer, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _weights(self, ids: Tensor) -> Tensor:
        return target_weights(
            ids,
            lowercase_weight=self._loss.lowercase_weight,
            mask_end_of_document=self._loss.mask_end_of_document,
        )


def _seed_of_step(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
