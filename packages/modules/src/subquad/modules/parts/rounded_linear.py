"""Linear layers of a trained network with weights of one byte, for inference in half the memory."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.parts.fp8_linear import FP8Linear
from subquad.modules.parts.registered import registered
from subquad.ops import RoundedRows, fp8_linear, round_to_e4m3, row_scales


class RoundedLinear(nn.Module):
    """``y = fp8_linear(x, weight) + bias`` with a weight in E4M3, a scale for each of its rows and for each row of x.

    It is made of a trained layer and is not trained itself. A cast of the network, such as ``.to(torch.bfloat16)``,
    casts the bias and leaves weight and scales as they are.

    Args:
      linear: The layer; it is not changed.
    """

    weight: Tensor = registered("buffer")
    weight_scale: Tensor = registered("buffer")
    weight_inverse: Tensor = registered("buffer")  # one over the scales
    bias: Tensor | None = registered("buffer")

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scales = row_scales(linear.weight.detach())
        self.register_buffer("weight", round_to_e4m3(linear.weight.detach(), scales))
        self.register_buffer("weight_scale", scales[:, 0].contiguous())
        self.register_buffer("weight_inverse", scales[:, 0].reciprocal(), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self.requires_grad_(False)
        self.register_load_state_dict_post_hook(_renew_inverse)

    def forward(
        self, input: Float[Tensor, "... channel"] | RoundedRows, *, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "... row"]:
        """Multiplies rows of input, each by itself; ``dtype`` is that of the result for rows that are rounded."""
        return fp8_linear(
            input,
            self.weight,
            weight_scale=self.weight_scale,
            weight_inverse=self.weight_inverse,
            bias=self.bias,
            dtype=dtype,
        )

    def channels_first(
        self, input: Float[Tensor, "batch length channel"] | RoundedRows, *, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "batch row length"]:
        """Returns ``forward(input).transpose(1, 2)`` with unit stride along the length where that costs nothing."""
        return fp8_linear(
            input,
            self.weight,
            weight_scale=self.weight_scale,
            weight_inverse=self.weight_inverse,
            bias=self.bias,
            layout="BHL",
            dtype=dtype,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RoundedLinear":
        def placed(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if tensor is self.bias or moved.dtype == tensor.dtype:
                return moved
            return tensor.to(moved.device)

        super()._apply(placed, recurse)
        return self

    def extra_repr(self) -> str:
        """Names sizes as ``nn.Linear`` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


@torch.no_grad()
def round_linears(network: nn.Module) -> int:
    """Puts a `RoundedLinear` in the place of every linear layer of a network, one at a time.

    An `FP8Linear`, which has scales of its own, stays; so do embeddings, and the unembedding with them.

    Returns:
      How many there are.
    """
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and not isinstance(child, FP8Linear)
    ]
    for parent, name, child in found:
        setattr(parent, name, RoundedLinear(child))
    return len(found)


def _renew_inverse(layer: nn.Module, _: object) -> None:
    assert isinstance(layer, RoundedLinear)
    layer.weight_inverse = layer.weight_scale.reciprocal()
