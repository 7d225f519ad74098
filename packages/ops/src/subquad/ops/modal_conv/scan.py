"""The recurrence over chunk states: ``S[i] = decay * S[i - 1] + U[i]``, in blocks of blocks.

Blocks of 8 are run side by side, one step of all blocks at a time; their totals are the same problem eight times
shorter, with ``decay ** 8``. The carry then enters each block with its own power. Depth ``log8`` of the count, about
three passes over the data, and rounding that grows with the depth instead of the count. Measured on two cores of a
Zen 5 at 256 channels of 8,192 samples, 16 states and chunks of 32, whole convolution, milliseconds: 8: 6.7, 16: 7.6,
32: 8.8.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 8


def scan_states(updates: Tensor, log_decay: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Runs the recurrence over the third axis.

    Args:
      updates: U, ``[channel, batch, count, state]``.
      log_decay: logarithm of the decay of one step, ``[channel, state]``, float64.
      initial: S before the first step, ``[channel, batch, state]`` in the dtype of U.

    Returns:
      The state *before* each step ``[channel, batch, count, state]`` and the state after the last.
    """
    count = updates.shape[2]
    decay = torch.exp(log_decay).to(updates.dtype)[:, None]
    if count <= _BLOCK:
        return _step_through(updates, decay, initial)
    blocks = -(-count // _BLOCK)
    whole = pad(updates, (0, 0, 0, blocks * _BLOCK - count)) if count % _BLOCK else updates
    steps = whole.unflatten(2, (blocks, _BLOCK)).unbind(3)
    local = [torch.zeros_like(steps[0]), steps[0]]
    for step in steps[1:]:
        local.append(torch.addcmul(step, decay[:, None], local[-1]))
    carries, _ = scan_states(local[-1], log_decay * _BLOCK, initial)
    exponents = torch.arange(_BLOCK, device=log_decay.device, dtype=torch.float64)[:, None]
    powers = torch.exp(log_decay[:, None] * exponents).to(updates.dtype)[:, None, None]
    before = torch.addcmul(torch.stack(local[:-1], dim=3), powers, carries[:, :, :, None]).flatten(2, 3)
    last = torch.addcmul(updates[:, :, count - 1], decay, before[:, :, count - 1])
    return before[:, :, :count], last


def _step_through(updates: Tensor, decay: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    states = [initial]
    for update in updates.unbind(2):
        states.append(torch.addcmul(update, decay, states[-1]))
    return torch.stack(states[:-1], dim=2), states[-1]
