"""The two gates around the filter of a Hyena mixer."""

from typing import TypedDict

from jaxtyping import Float
from torch import Tensor


class GateChoice(TypedDict):
    """The arguments by which the fused operators take the choice of gates."""

    pregate: bool
    postgate: bool


class Gated:
    """Gives a mixer its gates, each of which may be left out: ``y = q * filter(k * v)``.

    Attributes:
      pregate: Whether ``k`` gates the filter's input; without it the input is ``v``.
      postgate: Whether ``q`` gates its output.
    """

    pregate: bool
    postgate: bool

    def gated(self, k: Float[Tensor, "*axes"], v: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Returns the stream that is filtered, and of which a state keeps the end."""
        return k * v if self.pregate else v

    def gated_after(self, q: Float[Tensor, "*axes"], y: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Returns the output of the mixer from that of its filter."""
        return q * y if self.postgate else y
