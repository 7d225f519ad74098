"""Whether the projection convolution, the gates and the filter of a Hyena mixer run as one operator, or one by one."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from subquad.modules.exchange import SequenceExchange, refuse_split_state
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.split_convolution import split_causal_conv
from subquad.ops import Explanation, causal_conv_with_state, fill_ring, history_from_ring


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
    """Equals ``mixer.forward_projected``, each part an operator of its own whose result has the type of ``z``."""
    if state is None:
        streams = split_causal_conv(z, short_taps, mixer.exchange)
    else:
        refuse_split_state(mixer.exchange)
        ring: Tensor = state.projection  # type: ignore[attr-defined]
        history = history_from_ring(ring, state.position).to(z.dtype)
        streams, history = causal_conv_with_state(z, short_taps, initial_state=history)
        fill_ring(ring, history, state.position, z.shape[-1])
    q, k, v = streams.transpose(1, 2).unflatten(2, (mixer.channels, 3)).unbind(3)
    return mixer.forward(q, k, v, state=state).transpose(1, 2)  # type: ignore[attr-defined]
