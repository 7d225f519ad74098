"""A checkpoint read by several processes, each of which keeps its part of every layer."""

from functools import partial
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from subquad.inference.checkpoint.native import (
    DTYPES,
    LoadedCheckpoint,
    build,
    from_text,
    load_checkpoint,
    resolve_device,
    resolve_dtype,
)
from subquad.inference.checkpoint.summary import CONFIG_FILE, read_summary
from subquad.inference.errors import InvalidOption
from subquad.inference.tensor_parallel.workers import lead
from subquad.modules import ChannelShards, WholeChannels


class _PlannedShards(WholeChannels):
    """A number of ranks that are not there yet."""

    def __init__(self, size: int) -> None:
        self.size = size


def load_shared_checkpoint(
    path: str | PathLike[str],
    *,
    ranks: int,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    fp8_projections: str = "auto",
    weights: str = "stored",
) -> LoadedCheckpoint:
    """Reads a checkpoint into ``ranks`` processes, this one and new ones, that share every layer.

    Each reads its own part of the files only; this one also compares the digests of all of them.

    Args:
      path, dtype, fp8_projections, weights: See `load_checkpoint`.
      ranks: Processes, 2 or more; they divide the heads, the filter groups and the inner units.
      device: ``"auto"``, ``"cuda"`` (one device each, from 0 on) or ``"cpu"``.

    Raises:
      CheckpointConfigError: A number of heads, groups or units is not divided by ``ranks``; says both.
      WorkerFailed: Another process could not read its part.
      InvalidOption: There are too few CUDA devices; or see `load_checkpoint`, as for all else.
    """
    if ranks < 2:
        raise InvalidOption("tensor_parallel", ranks, "an integer, 1 or more")
    place = resolve_device(device)
    summary = read_summary(Path(path))
    config = from_text(summary.config_text, str(summary.path / CONFIG_FILE))
    stored = DTYPES.get(summary.metadata["dtype"], torch.float32)
    build(config, "meta", resolve_dtype(dtype, stored, place), summary.path, _PlannedShards(ranks))
    part = partial(read_part, str(path), str(dtype).removeprefix("torch."), fp8_projections, weights)
    model = lead(part, ranks, place)
    return LoadedCheckpoint(model.eval(), config, summary.tokenizer, summary.metadata)


def read_part(
    path: str, dtype: str, fp8_projections: str, weights: str, shards: ChannelShards, device: torch.device
) -> nn.Module:
    """Reads the part of one rank; see `load_checkpoint`."""
    loaded = load_checkpoint(
        path,
        device=device,
        dtype=dtype,
        verify=shards.rank == 0,
        fp8_projections=fp8_projections,
        weights=weights,
        shards=shards,
    )
    return loaded.model
