"""A mixer of grids, run on a sequence of tokens that holds a grid and more."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.mixer import Mixer, MixerState
from subquad.modules.mixers.stateless import refuse_state
from subquad.modules.widths import require_grid, require_positive


class GridMixer(nn.Module):
    """Mixes tokens ``[points of a grid, row by row, then others]`` as a grid with the others in rows of their own.

    The others (a class token, registers) fill whole rows behind the grid's last one, the end of the last row with
    zeros, which a convolution does not see; ``y = mixer(rows(q), rows(k), rows(v))`` without what filled the row.

    Args:
      channels: Number of channels, filled in for the mixer.
      mixer_cfg: Configuration of a ``Mixer`` over ``len(grid)`` axes.
      grid: Points along each axis of space.

    Raises:
      ConfigurationError: A size is below 1, or what ``mixer_cfg`` makes is no ``Mixer``.
    """

    def __init__(
        self,
        channels: int,
        mixer_cfg: Config[nn.Module],
        *,
        grid: Sequence[int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.grid = tuple(grid)
        if not self.grid or min(self.grid) < 1:
            raise ConfigurationError(f"grid is {self.grid}; accepted are sizes of 1 and more, one an axis")
        mixer = instantiate(mixer_cfg, channels=channels)
        if not isinstance(mixer, Mixer) or not isinstance(mixer, nn.Module):
            raise ConfigurationError(f"mixer_cfg makes a {type(mixer).__name__}, which is no Mixer")
        self.channels, self.mixer = channels, mixer.to(device=device, dtype=dtype)

    @property
    def stream_channels(self) -> tuple[int, int, int]:
        """Channels of q, k and v that the mixer takes."""
        return getattr(self.mixer, "stream_channels", (self.channels, self.channels, self.channels))

    @property
    def output_channels(self) -> int:
        """Channels of the output."""
        return getattr(self.mixer, "output_channels", self.channels)

    def forward(
        self,
        q: Float[Tensor, "batch length query"],
        k: Float[Tensor, "batch length key"],
        v: Float[Tensor, "batch length value"],
        *,
        state: MixerState | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Mixes the tokens.

        Raises:
          InputMismatch: A stream has another number of channels or axes, or fewer tokens than the grid has points.
          StateUnsupported: A state was given.
        """
        if state is not None:
            refuse_state(self)
        for name, x, width in zip("qkv", (q, k, v), self.stream_channels, strict=True):
            require_grid(name, x, width, axes=1)
        length, size = v.shape[1], self._size(v.shape[1])
        missing = math.prod(size) - length
        q, k, v = (nn.functional.pad(x, (0, 0, 0, missing)).unflatten(1, size) for x in (q, k, v))
        return self.mixer(q, k, v).flatten(1, -2)[:, :length]

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MixerState:
        """Refuses: a grid is mixed at once.

        Raises:
          StateUnsupported: Always.
        """
        refuse_state(self)

    def step(
        self,
        q: Float[Tensor, "batch channel"],
        k: Float[Tensor, "batch channel"],
        v: Float[Tensor, "batch channel"],
        state: MixerState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Refuses: a grid is mixed at once.

        Raises:
          StateUnsupported: Always.
        """
        refuse_state(self)

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts the mixer on the grid with its further rows."""
        tokens = length if isinstance(length, int) else math.prod(length)
        return self.mixer.flop_count(self._size(tokens))  # pyright: ignore[reportCallIssue]

    def _size(self, tokens: int) -> tuple[int, ...]:
        """Returns the grid with as many further rows as the tokens need."""
        points, row = math.prod(self.grid), math.prod(self.grid[1:])
        if tokens < points:
            raise InputMismatch(f"{tokens} tokens do not hold a grid of {self.grid}, which has {points} points")
        return (-(-tokens // row), *self.grid[1:])
