"""What a selective mixer remembers, and what it scans."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.modules.exchange import SequenceExchange
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.split_recurrence import entering_states
from subquad.ops import selective_scan, selective_scan_with_state


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

    def scan(
        self, decay: Float[Tensor, "channel state"], *, chunk_size: int | None = None, backend: str = "auto"
    ) -> Float[Tensor, "batch channel length"]:
        """Scans whole sequences; arguments as in ``selective_scan``."""
        return selective_scan(
            self.x,
            self.step_size,
            decay,
            self.input_weights,
            self.output_weights,
            chunk_size=chunk_size,
            backend=backend,
        )

    def continue_from(
        self,
        state: Float[Tensor, "batch channel state"],
        decay: Float[Tensor, "channel state"],
        *,
        chunk_size: int | None = None,
        backend: str = "auto",
    ) -> tuple[Float[Tensor, "batch channel length"], Float[Tensor, "batch channel state"]]:
        """Scans the next samples of sequences whose recurrence is at ``state``; also returns where it is then."""
        return selective_scan_with_state(
            self.x,
            self.step_size,
            decay,
            self.input_weights,
            self.output_weights,
            initial_state=state,
            chunk_size=chunk_size,
            backend=backend,
        )

    def scan_split(
        self,
        decay: Float[Tensor, "channel state"],
        exchange: SequenceExchange,
        *,
        chunk_size: int | None = None,
        backend: str = "auto",
    ) -> Float[Tensor, "batch channel length"]:
        """Scans this rank's runs of sequences that are split over ranks, each run from the state that enters it.

        A first scan finds what state each run reaches from zero, a second one makes the output.
        """
        options = {"chunk_size": chunk_size, "backend": backend}
        through = torch.exp(self.step_size.sum(-1, keepdim=True) * decay)
        _, reached = self.continue_from(torch.zeros_like(through), decay, **options)
        y, _ = self.continue_from(entering_states(exchange, through, reached), decay, **options)
        return y
