"""The recurrence over chunk states: ``S[i] = decay * S[i - 1] + U[i]``, in blocks of blocks.

Blocks of 16 are run side by side, one step of all blocks at a time; their totals are the same problem sixteen times
shorter, with ``decay ** 16``. The carry then enters each block with its own power. Depth ``log16`` of the count, about
three passes over the data, and rounding that grows with the depth instead of the count.
"""

import torch
from torch import Tensor

_BLOCK = 16


def scan_states(updates: Tensor, log_decay: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Runs the recurrence over the first axis.

    Args:
      updates: U, ``[count, batch, channel, state]``.
      log_decay: logarithm of the decay of one step, ``[channel, state]``, float64.
      initial: S before the first step, ``[batch, channel, state]``.

    Returns:
      The state *before* each step ``[count, batch, channel, state]`` and the state after the last.
    """
    count = updates.shape[0]
    if count <= _BLOCK:
        return _step_through(updates, log_decay, initial)
    blocks = -(-count // _BLOCK)
    whole = torch.nn.functional.pad(updates, (0, 0, 0, 0, 0, 0, 0, blocks * _BLOCK - count))
    grid = whole.view(blocks, _BLOCK, *updates.shape[1:])
    decay = torch.exp(log_decay).to(updates.dtype)
    local = [torch.zeros_like(grid[:, 0])]
    for i in range(_BLOCK):
        local.append(decay * local[-1] + grid[:, i])
    carries, _ = scan_states(local[-1], log_decay * _BLOCK, initial)
    powers = torch.exp(
        log_decay * torch.arange(_BLOCK, device=log_decay.device, dtype=torch.float64)[:, None, None]
    ).to(updates.dtype)
    before = torch.stack(local[:-1], dim=1) + powers[:, None] * carries[:, None]
    before = before.reshape(blocks * _BLOCK, *updates.shape[1:])
    return before[:count], decay * before[count - 1] + updates[count - 1]


def _step_through(updates: Tensor, log_decay: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    decay = torch.exp(log_decay).to(updates.dtype)
    states = [initial.to(updates.dtype)]
    for update in updates.unbind(0):
        states.append(decay * states[-1] + update)
    before = torch.stack(states[:-1]) if len(states) > 1 else updates
    return before, states[-1]
