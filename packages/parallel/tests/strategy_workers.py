"""A small training under Lightning for test_strategy.py, the same on one process and on several."""

import os
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from packages.parallel.tests.exchange_workers import network
from subquad.parallel.strategy import MegatronStrategy

STEPS, BATCH, LENGTH = 4, 4, 64


class Training(pl.LightningModule):
    """Plain SGD, which unlike Adam shows a wrong scale of gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        ids, targets = batch[0][:, :-1], batch[0][:, 1:]
        strategy = self.trainer.strategy
        if isinstance(strategy, MegatronStrategy):
            ids, targets = strategy.split_sequence(ids), strategy.split_sequence(targets)
        loss = functional.cross_entropy(self.model(ids).flatten(0, 1), targets.flatten())
        self.losses.append(float(strategy.reduce(loss.detach(), reduce_op="mean")))
        return loss

    def train_dataloader(self) -> DataLoader:
        ids = torch.randint(65, 85, (STEPS * BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(1))
        place: dict[str, Any] = {"num_replicas": 1, "rank": 0}
        if isinstance(self.trainer.strategy, MegatronStrategy):
            place = self.trainer.strategy.distributed_sampler_kwargs
        sampler = DistributedSampler(TensorDataset(ids), shuffle=False, **place)
        return DataLoader(TensorDataset(ids), batch_size=BATCH // place["num_replicas"], sampler=sampler)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(strategy: Any, devices: int) -> dict[str, Any]:
    """Trains and returns the losses and the trained weights."""
    module = Training()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        precision="64-true",
        max_steps=STEPS,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    return {"losses": module.losses, "weights": {n: p.detach().clone() for n, p in module.model.named_parameters()}}


def _as_launched_by_torchrun() -> None:
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, GROUP_RANK="0", WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    os.environ.update(TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")


def train_data_parallel() -> dict[str, Any]:
    """Each process sees its own half of every batch."""
    _as_launched_by_torchrun()
    return train(MegatronStrategy(), dist.get_world_size())


def train_context_parallel() -> dict[str, Any]:
    """Each process sees its own half of every sequence."""
    _as_launched_by_torchrun()
    return train(MegatronStrategy(context=2), dist.get_world_size())
