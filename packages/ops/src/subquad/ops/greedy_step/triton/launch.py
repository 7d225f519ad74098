"""greedy_step as a torch custom operator over the Triton kernel."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.greedy_step.triton.kernels import greedy_step_kernel
from subquad.ops.linear_step.triton.programmatic import dependent_launch

MOST_TOKENS = 65536


@torch.library.custom_op("subquad::greedy_step_triton", mutates_args=("ids",))
def greedy_step_triton(logits: Tensor, ids: Tensor, active: Tensor | None) -> Tensor:
    """Arguments as in greedy_step, all contiguous."""
    batch, vocabulary = logits.shape
    table = torch.empty((batch, 3), dtype=torch.float64, device=logits.device)
    greedy_step_kernel[(batch,)](
        logits,
        ids,
        ids if active is None else active.view(torch.uint8),
        table,
        vocabulary,
        TOKENS=triton.next_power_of_2(vocabulary),
        ACTIVE=active is not None,
        num_warps=4,
        **dependent_launch(),
    )
    return table


@greedy_step_triton.register_fake
def _(logits, ids, active):
    return logits.new_empty((logits.shape[0], 3), dtype=torch.float64)


def run(logits: Tensor, ids: Tensor, *, active: Tensor | None) -> Tensor:
    """Does what greedy_step's torch form does."""
    own = ids.contiguous()
    table = torch.ops.subquad.greedy_step_triton(
        logits.contiguous(), own, None if active is None else active.contiguous()
    )
    if own.data_ptr() != ids.data_ptr():
        ids.copy_(own)
    return table
