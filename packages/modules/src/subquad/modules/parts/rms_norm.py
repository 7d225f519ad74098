"""Root-mean-square normalisation in the two forms that StripedHyena 2 checkpoints meet."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError
from subquad.modules.parts.registered import registered
from subquad.modules.widths import require_positive
from subquad.ops import RoundedRows, StepNorm, rms_norm, rms_norm_of_sum, rounded_norm

NormForm = Literal["vortex", "standard"]


class RMSNorm(nn.Module):
    """Divides each position by the root mean square of its channels.

    ``form="vortex"``: ``y = scale * x / (sqrt(mean(x ** 2)) + eps)``, as the reference engine of Evo 2 computes it;
    ``form="standard"``: ``y = scale * x / sqrt(mean(x ** 2) + eps)``, as training frameworks do. Statistics and the
    product are float32 (float64 for float64 input); the output has the type of the input.

    Args:
      channels: Size of the last axis.
      eps: Keeps the quotient finite; positive.
      form: Where ``eps`` is added.

    Raises:
      ConfigurationError: ``channels`` is below 1, or ``form`` is neither of the two.
    """

    scale: nn.Parameter = registered("parameter")

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-6,
        form: NormForm = "vortex",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if form not in ("vortex", "standard"):
            raise ConfigurationError(f"norm form is {form!r}; accepted are 'vortex' and 'standard'")
        require_positive(channels=channels)
        self.channels, self.eps = channels, eps
        self.form: NormForm = form
        self.scale = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        """Normalises the last axis."""
        return rms_norm(x, self.scale, eps=self.eps, form=self.form)

    def of_sum(
        self, x: Float[Tensor, "... channel"], addend: Float[Tensor, "... channel"]
    ) -> tuple[Float[Tensor, "... channel"], Float[Tensor, "... channel"]]:
        """Returns ``forward(x + addend)`` and the sum, in one pass; the sum is a new tensor."""
        return rms_norm_of_sum(x, addend, self.scale, eps=self.eps, form=self.form)

    def rounded(
        self, x: Float[Tensor, "... channel"], addend: Float[Tensor, "... channel"] | None = None
    ) -> tuple[RoundedRows, Float[Tensor, "... channel"]]:
        """Returns ``forward(x + addend)`` rounded to one byte a number, and the sum (x itself where there is none)."""
        return rounded_norm(x, StepNorm(self.scale, self.eps, self.form), addend=addend)
