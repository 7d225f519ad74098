"""Normalisation of vectors to unit length."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.modules.parts.full_precision import full_precision_dtype
from subquad.modules.widths import require_floats


class L2Norm(nn.Module):
    """Divides each position by the length of its channels: ``y = x / max(norm(x), eps)``, in float32 or wider.

    Args:
      eps: Least length that is divided by.
    """

    def __init__(self, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        """Normalises the last axis.

        Raises:
          InputMismatch: ``x`` is no dense tensor of floating point numbers.
        """
        require_floats("x", x)
        return functional.normalize(x.to(full_precision_dtype(x.dtype)), dim=-1, eps=self.eps).to(x.dtype)
