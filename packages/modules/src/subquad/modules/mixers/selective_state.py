"""A selective scan that goes on from a state: what a state adds to the output, and what is left of it at the end."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from subquad.modules.mixer import MixerState
from subquad.ops import selective_scan

_NAMES = ("x", "step_size", "input_weights", "output_weights")


@dataclasses.dataclass
class SelectiveState(MixerState):
    """What a selective mixer remembers; its size does not depend on the length.

    Attributes:
      convolution: Ring of the short filter, ``[batch, channel, tap - 1]``.
      scan: The state of the recurrence, ``[batch, channel, state]``, float32 or float64.
    """

    convolution: Tensor
    scan: Tensor


@dataclasses.dataclass(frozen=True)
class SelectiveStreams:
    """The arguments of ``selective_scan`` that its input makes, channels first and in float32 or float64.

    Attributes:
      x: What is scanned.
      step_size: Positive.
      input_weights: One set for each run of ``channel / group`` channels.
      output_weights: Likewise.
    """

    x: Float[Tensor, "batch channel length"]
    step_size: Float[Tensor, "batch channel length"]
    input_weights: Float[Tensor, "batch group state length"]
    output_weights: Float[Tensor, "batch group state length"]


def continue_scan(
    streams: SelectiveStreams,
    decay: Float[Tensor, "channel state"],
    state: Float[Tensor, "batch channel state"],
    *,
    backend: str = "auto",
) -> tuple[Float[Tensor, "batch channel length"], Float[Tensor, "batch channel state"]]:
    """Scans the next samples of sequences whose recurrence is at ``state``; also returns where it is then.

    The recurrence is linear in its state, so the output is that of a scan from zero plus
    ``output_weights[t] . exp(decay * sum(step_size[: t + 1])) * state``.

    Args:
      streams: The next samples.
      decay: Negative.
      state: Float32 or float64.
      backend: See ``selective_scan``.
    """
    repeat = streams.x.shape[1] // streams.input_weights.shape[1]
    into, out = (
        weights.repeat_interleave(repeat, dim=1) for weights in (streams.input_weights, streams.output_weights)
    )
    elapsed = streams.step_size.double().cumsum(-1)
    if streams.x.shape[-1] == 1:
        decayed = torch.exp(elapsed.to(decay.dtype) * decay) * state
        after = decayed + (streams.step_size * streams.x) * into[..., 0]
        return (out[..., 0] * after).sum(-1, keepdim=True), after
    y = selective_scan(
        streams.x, streams.step_size, decay, streams.input_weights, streams.output_weights, backend=backend
    )
    reached = torch.exp(elapsed.to(decay.dtype).unsqueeze(2) * decay.unsqueeze(-1))
    y = y + torch.einsum("bcnt,bcnt,bcn->bct", out, reached, state)
    left = (elapsed[..., -1:] - elapsed).to(decay.dtype).unsqueeze(2) * decay.unsqueeze(-1)
    entered = torch.einsum("bcnt,bcnt,bct->bcn", left.exp(), into, streams.step_size * streams.x)
    return y, reached[..., -1] * state + entered


def scan_in_chunks(
    streams: SelectiveStreams, decay: Float[Tensor, "channel state"], *, chunk_size: int, backend: str = "auto"
) -> Float[Tensor, "batch channel length"]:
    """Scans so many samples at a time, recomputed in backward: memory no longer grows with ``length * state``."""
    pieces = zip(*(getattr(streams, name).split(chunk_size, dim=-1) for name in _NAMES), strict=True)
    state = streams.x.new_zeros(*streams.x.shape[:2], decay.shape[1])
    outputs = []
    for piece in pieces:
        y, state = checkpoint(_scan_piece, *piece, decay, state, backend, use_reentrant=False)  # type: ignore[misc]
        outputs.append(y)
    return torch.cat(outputs, dim=-1)


def _scan_piece(
    x: Tensor, step_size: Tensor, into: Tensor, out: Tensor, decay: Tensor, state: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    return continue_scan(SelectiveStreams(x, step_size, into, out), decay, state, backend=backend)
