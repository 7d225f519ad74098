"""Whether the projection convolution, the gates and the filter of a Hyena mixer run as one operator, or one by one."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from subquad.modules.exchange import SequenceExchange, refuse_split_state
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.split_convolution import split_causal_conv
from subquad.ops import Explanation, causal_conv_with_state, fill_ring, history_from_ring

_PLAIN = "torch"


@runtime_checkable
class FusibleMixer(Protocol):
    """What is asked of a Hyena mixer here."""

    channels: int
    exchange: SequenceExchange

    def explain_projected(
        self, z: Float[Tensor, "batch rows length"], short_taps: Float[Tensor, "rows tap"]
    ) -> Explanation:
        """Says which backend would run the fused operator on this input."""
        ...

    def gated(self, k: Float[Tensor, "*axes"], v: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Returns the stream that is filtered."""
        ...

    def filter_gated(
        self, gated: Float[Tensor, "batch channel length"], state: Any, *, backend: str | None = None
    ) -> Float[Tensor, "batch channel length"]:
        """Filters it."""
        ...

    def gated_after(self, q: Float[Tensor, "*axes"], y: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Returns the output from that of the filter."""
        ...


def fused_refusal(
    mixer: FusibleMixer, z: Float[Tensor, "batch rows length"], short_taps: Float[Tensor, "rows tap"]
) -> str | None:
    """Says why no fused kernel can take this input, or None. On a CPU the fused form in torch is the kernel."""
    if mixer.exchange.size > 1:
        return f"the sequence is split over {mixer.exchange.size} ranks, which exchange samples between the parts"
    explanation = mixer.explain_projected(z, short_taps)
    if z.device.type == "cuda" and explanation.backend == "torch":
        return f"no fused kernel takes it on {z.device}: {explanation.reason}"
    return None


def mix_one_by_one(
    mixer: FusibleMixer,
    z: Float[Tensor, "batch rows length"],
    short_taps: Float[Tensor, "rows tap"],
    state: MixerState | None,
) -> Float[Tensor, "batch channel length"]:
    """Equals ``mixer.forward_projected`` by other means: each part alone, in torch, rounded to the type of ``z``.

    On one rank no convolution kernel of ours has a part in it, so that it is something to hold the fused operators to.
    """
    if state is None:
        streams = split_causal_conv(z, short_taps, mixer.exchange, backend=_PLAIN)
    else:
        refuse_split_state(mixer.exchange)
        ring: Tensor = state.projection  # type: ignore[attr-defined]
        history = history_from_ring(ring, state.position).to(z.dtype)
        streams, history = causal_conv_with_state(z, short_taps, initial_state=history, backend=_PLAIN)
        fill_ring(ring, history, state.position, z.shape[-1])
    q, k, v = streams.unflatten(1, (mixer.channels, 3)).unbind(2)
    return mixer.gated_after(q, mixer.filter_gated(mixer.gated(k, v), state, backend=_PLAIN))
