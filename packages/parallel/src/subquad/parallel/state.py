"""Sets up the process groups of a run through megatron-core, and says where this process stands in them."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from subquad.parallel import _compat
from subquad.parallel.errors import ParallelSizeError
from subquad.parallel.exchange import ContextExchange


@dataclass(frozen=True, kw_only=True)
class ParallelState:
    """Where this process stands. The groups are megatron-core's; everything that uses megatron-core sees the same ones.

    Attributes:
      world_size: Number of processes.
      rank: This process among all.
      tensor_size, tensor_rank, tensor_group: The processes that share each layer's weights.
      pipeline_size, pipeline_rank, pipeline_group: Those that hold successive layers.
      context_size, context_rank, context_group: Those that share each sequence.
      data_size, data_rank, data_group: Those that see different sequences with the same place in all else.
      gradient_group: Those over which gradients are averaged: data and context together.
    """

    world_size: int
    rank: int
    tensor_size: int
    tensor_rank: int
    tensor_group: dist.ProcessGroup
    pipeline_size: int
    pipeline_rank: int
    pipeline_group: dist.ProcessGroup
    context_size: int
    context_rank: int
    context_group: dist.ProcessGroup
    data_size: int
    data_rank: int
    data_group: dist.ProcessGroup
    gradient_group: dist.ProcessGroup

    def exchange(self) -> ContextExchange:
        """Makes the exchange of the processes that share a sequence."""
        return ContextExchange(self.context_group)


def init_parallel_state(
    *, tensor: int = 1, pipeline: int = 1, context: int = 1, backend: str | None = None
) -> ParallelState:
    """Sets up torch.distributed, if it is not yet, and megatron-core's process groups.

    Under torchrun the processes find each other by its environment variables; without them this process is alone. The
    processes that remain beside `tensor * pipeline * context` are data parallel.

    Args:
      tensor: Processes that share each layer's weights, 1 or more.
      pipeline: Processes that hold successive layers, 1 or more.
      context: Processes that share each sequence, 1 or more.
      backend: Of torch.distributed; None takes `"nccl"` where CUDA is available, else `"gloo"`.

    Raises:
      ParallelSizeError: The sizes do not divide the number of processes, or groups of other sizes are set up already.
      MissingExtraError: megatron-core is not installed.
    """
    for name, size in (("tensor", tensor), ("pipeline", pipeline), ("context", context)):
        if size < 1:
            raise ParallelSizeError(f"{name} is {size}; accepted is a whole number of at least 1")
    megatron = _compat.parallel_state()
    if not dist.is_initialized():
        _init_process_group(backend)
    world = dist.get_world_size()
    if world % (tensor * pipeline * context):
        raise ParallelSizeError(
            f"tensor {tensor} * pipeline {pipeline} * context {context} does not divide the {world} processes; "
            f"accepted are sizes whose product does"
        )
    if not megatron.model_parallel_is_initialized():
        megatron.initialize_model_parallel(
            tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline, context_parallel_size=context
        )
    state = _read_state()
    got = (state.tensor_size, state.pipeline_size, state.context_size)
    if got != (tensor, pipeline, context):
        raise ParallelSizeError(
            f"process groups are set up with (tensor, pipeline, context) = {got}, asked for is "
            f"{(tensor, pipeline, context)}; call destroy_parallel_state first"
        )
    return state


def destroy_parallel_state() -> None:
    """Takes megatron-core's process groups and torch.distributed down, if they are up."""
    _compat.parallel_state().destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def _init_process_group(backend: str | None) -> None:
    chosen = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    if chosen == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" in os.environ:
        dist.init_process_group(chosen)
    else:
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(chosen, store=store, rank=0, world_size=1)


def _read_state() -> ParallelState:
    megatron = _compat.parallel_state()
    return ParallelState(
        world_size=dist.get_world_size(),
        rank=dist.get_rank(),
        tensor_size=megatron.get_tensor_model_parallel_world_size(),
        tensor_rank=megatron.get_tensor_model_parallel_rank(),
        tensor_group=megatron.get_tensor_model_parallel_group(),
        pipeline_size=megatron.get_pipeline_model_parallel_world_size(),
        pipeline_rank=megatron.get_pipeline_model_parallel_rank(),
        pipeline_group=megatron.get_pipeline_model_parallel_group(),
        context_size=megatron.get_context_parallel_world_size(),
        context_rank=megatron.get_context_parallel_rank(),
        context_group=megatron.get_context_parallel_group(),
        data_size=megatron.get_data_parallel_world_size(),
        data_rank=megatron.get_data_parallel_rank(),
        data_group=megatron.get_data_parallel_group(),
        gradient_group=megatron.get_data_parallel_group(with_context_parallel=True),
    )
