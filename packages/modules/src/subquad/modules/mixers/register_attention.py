"""The attention of ViT-5: over the patches of a grid, a class token and registers, each with positions of its own."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.filters.positions import per_axis
from subquad.modules.mixers.attention import KeyValueState
from subquad.modules.mixers.multi_head_attention import MultiHeadAttention, QKNorm
from subquad.modules.parts.axial_rotary import AxialRotaryEmbedding, grid_positions
from subquad.modules.widths import require_floats


class RegisterAttention(MultiHeadAttention):
    """Attends over ``[patches, class token, registers]``: ``y = softmax(scale * rope(norm(q)) . rope(norm(k))) @ v``.

    Patches are rotated by their position in the grid; the class token is not; registers lie on a grid of their own,
    as square as their number allows, and are rotated with another base.

    Args:
      channels: Channels of q and of the output.
      num_heads: Number of query heads; divides ``channels``.
      grid_size: Patches along each axis, the last axis fastest; 1 to 3 axes.
      num_registers: Tokens at the end; 0 or more.
      class_token: Whether there is a token between patches and registers.
      num_key_value_heads: See ``MultiHeadAttention``.
      rotary_base: Base of the patches' rotary positions.
      register_rotary_base: Base of the registers'.
      qk_norm: See ``MultiHeadAttention``.
      scale: See ``MultiHeadAttention``.
      dropout: Chance that an attention weight is dropped in training.

    Raises:
      ConfigurationError: The sizes do not divide, or an argument is out of its range.

    Source: the ViT-5 models of nvsubquadratic 0.2.0.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        grid_size: int | Sequence[int],
        num_registers: int = 4,
        class_token: bool = True,
        num_key_value_heads: int | None = None,
        rotary_base: float = 1e4,
        register_rotary_base: float = 100.0,
        qk_norm: QKNorm | None = "rms",
        scale: float | None = None,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            num_heads=num_heads,
            num_key_value_heads=num_key_value_heads,
            rotary_base=None,
            qk_norm=qk_norm,
            scale=scale,
            dropout=dropout,
            device=device,
            dtype=dtype,
        )
        sizes = (grid_size,) if isinstance(grid_size, int) else tuple(grid_size)
        self.grid_size = per_axis("grid_size", sizes, len(sizes), least=1)
        if num_registers < 0:
            raise ConfigurationError(f"num_registers is {num_registers}; accepted are 0 and more")
        self.num_registers, self.class_token = num_registers, class_token
        self.patch_rotary, self.register_rotary = (
            AxialRotaryEmbedding(self.head_size, data_dim=len(sizes), base=base, device=device, dtype=dtype)
            for base in (rotary_base, register_rotary_base)
        )

    @property
    def rotates(self) -> bool:
        """Whether q and k are rotated by their positions: yes."""
        return True

    @property
    def num_tokens(self) -> int:
        """Patches, class token and registers together."""
        return math.prod(self.grid_size) + int(self.class_token) + self.num_registers

    def forward(
        self,
        q: Float[Tensor, "batch token channel"],
        k: Float[Tensor, "batch token shared"],
        v: Float[Tensor, "batch token shared"],
        *,
        state: KeyValueState | None = None,
    ) -> Float[Tensor, "batch token channel"]:
        """Mixes all tokens of a sample; there is no state, for all see each other.

        Raises:
          InputMismatch: The input does not have ``num_tokens`` tokens.
        """
        require_floats("q", q)
        if q.dim() != 3 or q.shape[1] != self.num_tokens:
            raise InputMismatch(
                f"the input has axes {tuple(q.shape)}; accepted are {self.num_tokens} tokens: a grid of "
                f"{self.grid_size}, {int(self.class_token)} class token and {self.num_registers} registers"
            )
        return super().forward(q, k, v, state=state)

    def _rotated(
        self, x: Float[Tensor, "batch length head size"], positions: Int[Tensor, "rows points axis"]
    ) -> Float[Tensor, "batch length head size"]:
        counts = [math.prod(self.grid_size), int(self.class_token), self.num_registers]
        patches, token, registers = x.split(counts, dim=1)
        axes = len(self.grid_size)
        side = next(n for n in range(self.num_registers + 1) if n**axes >= self.num_registers)
        at = grid_positions((side,) * axes, x.device)[: self.num_registers]
        patches = self.patch_rotary(patches, grid_positions(self.grid_size, x.device).unsqueeze(0))
        return torch.cat([patches, token, self.register_rotary(registers, at.unsqueeze(0))], dim=1)
