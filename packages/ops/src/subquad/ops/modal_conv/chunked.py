"""The modal convolution as a chunked scan: three small matrix products a chunk and one recurrence over chunks.

For a chunk X of T samples that starts in state S: ``Y = X @ H + S @ O`` and ``S' = exp(log_poles * T) * S + X @ P`` with
``H[j, i] = h[i - j]``, ``O[s, i] = residues[s] * exp(log_poles[s] * (i + 1))`` and ``P[j, s] = exp(log_poles[s] * (T - 1 - j))``.
Exact, ``2 T + 4 S`` multiplications a sample, and the final state comes for free.
"""

import torch
from torch import Tensor

from subquad.ops.causal_conv.toeplitz import toeplitz_blocks
from subquad.ops.modal_conv.powers import pole_powers
from subquad.ops.modal_conv.scan import scan_states


def convolve_modal(
    x: Tensor, log_poles: Tensor, residues: Tensor, initial_state: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """Convolves ``x`` ``[batch, channel, length]`` (float32 or float64) and returns it with the state after the last sample."""
    batch, channels, length = x.shape
    count, rest = divmod(length, block)
    dtype = x.dtype
    powers = pole_powers(log_poles, 0, block + 1)
    weights = residues.double()[..., None]
    outputs: list[Tensor] = []
    state = initial_state.to(dtype)
    if count:
        taps = (weights * powers[..., :block]).sum(dim=1)
        local = toeplitz_blocks(taps.to(dtype), block)[:, 0]
        collect = powers[..., :block].flip(-1).transpose(1, 2).to(dtype)
        spread = (weights * powers[..., 1:]).to(dtype)
        chunks = x[..., : count * block].transpose(0, 1).reshape(channels, batch * count, block)
        updates = (chunks @ collect).view(channels, batch, count, -1).permute(2, 1, 0, 3)
        before, state = scan_states(updates, log_poles.double() * block, state)
        entering = before.permute(2, 1, 0, 3).reshape(channels, batch * count, -1)
        y = torch.baddbmm(entering @ spread, chunks, local)
        outputs.append(y.view(channels, batch, count * block).transpose(0, 1))
    if rest:
        tail, state = _convolve_chunk(x[..., count * block :], powers, weights, state)
        outputs.append(tail)
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1) if outputs else x
    return y, state


def _convolve_chunk(x: Tensor, powers: Tensor, weights: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk of any length below the block: the same three products."""
    length, dtype = x.shape[-1], x.dtype
    taps = (weights * powers[..., :length]).sum(dim=1).to(dtype)
    local = toeplitz_blocks(taps, length)[:, 0]
    spread = (weights * powers[..., 1 : length + 1]).to(dtype)
    collect = powers[..., :length].flip(-1).transpose(1, 2).to(dtype)
    columns = x.transpose(0, 1)
    entering = state.transpose(0, 1)
    y = columns @ local + entering @ spread
    after = powers[..., length].to(dtype) * state + (columns @ collect).transpose(0, 1)
    return y.transpose(0, 1), after
