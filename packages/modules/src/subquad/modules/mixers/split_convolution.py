"""Causal convolutions over a sequence that an exchange may have split over ranks."""

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.modules.exchange import SequenceExchange
from subquad.ops import causal_conv, modal_conv, modal_conv_with_state, modal_filter


def channel_share(whole: Float[Tensor, "batch share length"], exchange: SequenceExchange) -> slice:
    """Returns which channels ``exchange.to_channels`` has given this rank."""
    return slice(exchange.rank * whole.shape[1], (exchange.rank + 1) * whole.shape[1])


def split_causal_conv(
    x: Float[Tensor, "batch channel length"],
    taps: Float[Tensor, "group tap"],
    exchange: SequenceExchange,
    *,
    skip: Float[Tensor, " channel"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "batch channel length"]:
    """Convolves every channel with the taps of its group, across run borders; ``backend`` is that of the operator.

    A filter that reaches no further back than one run fetches a halo of ``tap - 1`` samples; a longer one trades
    length for channels.
    """
    reach = taps.shape[-1] - 1
    if exchange.size == 1:
        return causal_conv(x, taps, skip=skip, backend=backend)
    if reach <= x.shape[-1]:
        return causal_conv(x, taps, skip=skip, initial_state=exchange.left_halo(x, reach), backend=backend)
    whole = exchange.to_channels(x)
    share = channel_share(whole, exchange)
    per_channel = taps.repeat_interleave(x.shape[1] // taps.shape[0], dim=0)
    y = causal_conv(whole, per_channel[share], skip=None if skip is None else skip[share], backend=backend)
    return exchange.to_sequence(y)


def split_modal_conv(
    x: Float[Tensor, "batch channel length"],
    log_poles: Float[Tensor, "channel state"],
    residues: Float[Tensor, "channel state"],
    exchange: SequenceExchange,
    *,
    skip: Float[Tensor, " channel"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "batch channel length"]:
    """Convolves every channel with its modal filter, across run borders; ``backend`` is that of the operator.

    Each run is convolved from a zero state; what entered it is then added: with ``s`` the entering state,
    ``y[t] += sum(residues * exp(log_poles * (t + 1)) * s)``.
    """
    if exchange.size == 1:
        return modal_conv(x, log_poles, residues, skip=skip, backend=backend)
    batch, channels, length = x.shape
    wide = x.to(log_poles.dtype)
    y, chunk_state = modal_conv_with_state(
        wide, log_poles, residues, skip=None if skip is None else skip.to(wide.dtype), backend=backend
    )
    entered = exchange.carry_state(torch.exp(log_poles * length), chunk_state)
    response = modal_filter(
        log_poles.expand(batch, -1, -1).flatten(0, 1), (residues * torch.exp(log_poles) * entered).flatten(0, 1), length
    )
    return (y + response.view(batch, channels, length)).to(x.dtype)
