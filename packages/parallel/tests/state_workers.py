"""What every rank does for test_state.py."""

from typing import Any

import torch

from subquad.parallel import ParallelSizeError, init_parallel_state, zigzag_split
from subquad.parallel._compat import batch_on_this_rank, parallel_state


def set_up() -> dict[str, Any]:
    """Sets context 2 up, compares the order with megatron-core's, and tries sizes that do not fit."""
    refused = []
    for sizes in ({"tensor": 3}, {"context": 0}):
        try:
            init_parallel_state(**sizes)
        except ParallelSizeError as error:
            refused.append(str(error))
    state = init_parallel_state(context=2)
    tokens = torch.arange(32).view(2, 16)
    theirs = batch_on_this_rank({"tokens": tokens.clone()}, state.context_group)["tokens"]
    ours = zigzag_split(tokens, size=state.context_size, rank=state.context_rank, axis=1)
    again = init_parallel_state(context=2)
    try:
        init_parallel_state(tensor=2)
    except ParallelSizeError as error:
        refused.append(str(error))
    parallel_state().destroy_model_parallel()
    data = init_parallel_state()
    parallel_state().destroy_model_parallel()
    fields = (
        "world_size",
        "rank",
        "tensor_size",
        "pipeline_size",
        "context_size",
        "context_rank",
        "data_size",
        "data_rank",
    )
    return {
        "context": {name: getattr(state, name) for name in fields},
        "data": {name: getattr(data, name) for name in fields},
        "order": (ours, theirs),
        "again": again.context_rank == state.context_rank,
        "exchange": (state.exchange().size, state.exchange().rank, state.exchange().segments),
        "refused": refused,
    }
