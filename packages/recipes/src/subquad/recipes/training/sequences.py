"""Reads the genomes of a run and serves its windows."""

from collections.abc import Sequence
from typing import cast

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader, Dataset

from subquad.recipes.data.fasta import read_fasta
from subquad.recipes.data.genomes import lambda_phage, phix174
from subquad.recipes.data.split import Split, split_documents
from subquad.recipes.data.windows import ConsumedSampler, EvaluationWindows, TrainingWindows
from subquad.recipes.errors import SplitError
from subquad.recipes.training.settings import DataSettings, RunSettings

SHIPPED = {"lambda_phage": lambda_phage, "phix174": phix174}
"""The names that stand for a shipped genome in `DataSettings.genomes`."""


def load_split(settings: DataSettings) -> Split:
    """Reads the genomes and holds out a part of them.

    Raises:
      FastaError, MissingFileError: A file cannot be read.
      SplitError: The sequences are too short to hold out the share asked for.
    """
    documents: list[np.ndarray] = []
    for name in settings.genomes:
        path = SHIPPED[name]() if name in SHIPPED else name
        documents += [record.sequence for record in read_fasta(path, upper=settings.upper_case)]
    return split_documents(
        documents,
        fraction=settings.held_out,
        by=settings.hold_out_by,
        block_length=settings.held_out_block,
        seed=settings.seed,
    )


class GenomeWindows(pl.LightningDataModule):
    """Training windows from where the run stands, and covering windows of the held-out part."""

    def __init__(self, split: Split, data: DataSettings, run: RunSettings) -> None:
        super().__init__()
        self._split, self._data, self._run = split, data, run

    def train_dataloader(self) -> DataLoader:
        """Goes on behind the windows that the optimiser steps so far have consumed, on any number of processes."""
        replicas, rank = self._place()
        batch = self._run.batch_size * replicas
        samples = self._run.steps * batch
        windows = TrainingWindows(
            self._split.training,
            window=self._data.window,
            samples=samples,
            seed=self._run.seed,
            both_strands=self._data.both_strands,
        )
        consumed = (self.trainer.global_step if self.trainer else 0) * batch
        sampler = ConsumedSampler(samples, consumed=consumed, replicas=replicas, rank=rank)
        return DataLoader(windows, batch_size=self._run.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        """Serves this process's share of the windows that score every held-out base once.

        Raises:
          SplitError: There are fewer than processes.
        """
        replicas, rank = self._place()
        windows = EvaluationWindows(self._split.held_out, window=self._data.window)
        if len(windows) < replicas:
            raise SplitError(
                f"the held-out part has {len(windows)} windows; accepted is {replicas}, one a device, or more"
            )
        indices: Sequence[int] = range(rank, len(windows), replicas)
        batch = self._run.micro_batch_size or self._run.batch_size
        return DataLoader(cast(Dataset, windows), batch_size=batch, sampler=indices)

    def _place(self) -> tuple[int, int]:
        """Returns the number of data-parallel processes and which of them this is."""
        if self.trainer is None:
            return 1, 0
        place = getattr(self.trainer.strategy, "distributed_sampler_kwargs", {"num_replicas": 1, "rank": 0})
        return int(place["num_replicas"]), int(place["rank"])
