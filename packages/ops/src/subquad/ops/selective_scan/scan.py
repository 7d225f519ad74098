"""The selective recurrence in plain torch: blocks of time side by side, then the carries from block to block."""

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 32


def scan_selective(log_decay: Tensor, updates: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Runs ``s[t] = exp(log_decay[t]) * s[t - 1] + updates[t]`` along the first axis.

    Both inputs are ``[length, batch, channel, state]`` and float32 or float64. Returns every s and the last. A block's
    carry enters its samples with the product of their decays, kept as a sum of logarithms, so nothing is divided.
    """
    length = updates.shape[0]
    if length <= _BLOCK:
        return _step_through(log_decay, updates, initial)
    blocks = -(-length // _BLOCK)
    fill = (0, 0, 0, 0, 0, 0, 0, blocks * _BLOCK - length)
    logs = pad(log_decay, fill).unflatten(0, (blocks, _BLOCK)).transpose(0, 1)
    terms = pad(updates, fill).unflatten(0, (blocks, _BLOCK)).transpose(0, 1)
    local, ends = _step_through(logs, terms, torch.zeros_like(terms[0]))
    reach = logs.cumsum(dim=0)
    after, _ = scan_selective(reach[-1], ends, initial)
    entering = torch.cat([initial[None], after[:-1]])
    states = (local + torch.exp(reach) * entering).transpose(0, 1).flatten(0, 1)[:length]
    return states, states[-1]


def _step_through(log_decay: Tensor, updates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    states = []
    for decay, update in zip(torch.exp(log_decay).unbind(0), updates.unbind(0), strict=True):
        state = decay * state + update
        states.append(state)
    return torch.stack(states), state
