"""The modal convolution as a chunked scan: three small matrix products a chunk and one recurrence over chunks.

For a chunk X of T samples that starts in state S: ``Y = X @ H + S @ O`` and ``S' = exp(log_poles * T) * S + X @ P``
with ``H[j, i] = h[i - j]``, ``O[s, i] = residues[s] * exp(log_poles[s] * (i + 1))`` and
``P[j, s] = exp(log_poles[s] * (T - 1 - j))``.
Exact, ``2 T + 4 S`` multiplications a sample, and the final state comes for free.

Measured on one core of an AVX-512 Xeon, 64 channels, 16 states, million samples a second: T = 16: 155, 32: 165,
64: 149, 128: 92 at 8,192 samples (an FFT of twice the length with filter synthesis: 55); at 65,536 samples 56, 157,
155, 163.
"""

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._blocks import channels_at_once
from subquad.ops.causal_conv.toeplitz import toeplitz_blocks
from subquad.ops.modal_conv.powers import pole_powers
from subquad.ops.modal_conv.scan import scan_states

_BLOCK = {"cpu": 32, "cuda": 64}


def filter_modal(x: Tensor, log_poles: Tensor, residues: Tensor, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Filters ``[batch, channel, length]``; returns the sums, still in their own dtype, and the last state."""
    wide = _checks.accumulation_dtype(x)
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], x.shape[1], log_poles.shape[1], dtype=wide)
    samples, state, block = x.to(wide), initial_state.to(wide), _BLOCK.get(x.device.type, 32)
    width = 2 * channels_at_once(x)  # the states are half as large as the stream, and a scan has many small steps
    if width >= x.shape[1]:
        return convolve_modal(samples, log_poles, residues, state, block)
    blocks = zip(
        samples.split(width, 1), log_poles.split(width), residues.split(width), state.split(width, 1), strict=True
    )
    parts, ends = zip(*(convolve_modal(*own, block) for own in blocks), strict=True)
    return torch.cat(parts, dim=1), torch.cat(ends, dim=1)


def convolve_modal(x: Tensor, log_poles: Tensor, residues: Tensor, state: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Convolves ``x`` in chunks of ``block``; x and state are both float32 or both float64."""
    length = x.shape[-1]
    whole = length - length % block
    outputs = []
    for start, stop, size in ((0, whole, block), (whole, length, length - whole)):
        if stop > start:
            y, state = _convolve_chunks(x[..., start:stop], log_poles, residues, state, size)
            outputs.append(y)
    if not outputs:  # empty, yet tied to every input
        weight = (log_poles * residues).sum(dim=1)[:, None].to(x.dtype)
        return x * weight, state.clone()
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)), state


def _convolve_chunks(
    x: Tensor, log_poles: Tensor, residues: Tensor, state: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """Does convolve_modal for a length that is a multiple of the block."""
    batch, channels, length = x.shape
    count, dtype = length // block, x.dtype
    powers = pole_powers(log_poles, block + 1)
    weighted = residues.double()[..., None] * powers
    local = toeplitz_blocks(weighted[..., :block].sum(dim=1).to(dtype), block)[:, -1]
    collect = powers[..., :block].flip(-1).transpose(1, 2).to(dtype)
    chunks = x.transpose(0, 1).reshape(channels, batch * count, block)
    states = log_poles.shape[1]
    updates = torch.bmm(chunks, collect).view(channels, batch, count, states)
    before, last = scan_states(updates, log_poles.double() * block, state.transpose(0, 1).to(dtype))
    entering = before.reshape(channels, batch * count, states)
    y = torch.bmm(entering, weighted[..., 1:].to(dtype))
    y = torch.baddbmm(y, chunks, local) if dispatch.transformed() else y.baddbmm_(chunks, local)
    return y.view(channels, batch, length).transpose(0, 1), last.transpose(0, 1).contiguous()
