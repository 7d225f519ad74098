"""What implicit filters share: hidden layers over an embedding of positions, and the output layer."""

import itertools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.filters.film import FilterFiLM
from subquad.modules.filters.full_precision_linear import FullPrecisionLinear
from subquad.modules.filters.positions import Offsets, filter_positions, per_axis


@runtime_checkable
class Filter(Protocol):
    """Makes the taps of a depthwise convolution, as many as asked for."""

    takes_condition: bool

    def forward(
        self, offsets: Offsets, condition: Float[Tensor, "batch condition"] | None = None
    ) -> Float[Tensor, "sample channel ..."]:
        """Returns the taps at all combinations of offsets; ``sample`` is 1, or the batch of the condition."""
        ...

    def flop_count(self, taps: int) -> int:
        """Counts floating-point operations of making ``taps`` taps of every channel."""
        ...


class ImplicitFilter(nn.Module):
    """A network from tap positions to taps: ``h[c, offset] = out(act(hidden(... embed(p(offset)))))[c]``.

    Subclasses give ``embed``, ``activate`` and the initial values. See ``filter_positions`` for ``p``.

    Args:
      channels: Number of filters.
      data_dim: Axes of space, 1 to 3.
      trained_reach: Taps on one side at which a coordinate reaches 1, per axis or for all; at least 2.
      embedding_dim: Size of the embedding of a position.
      hidden_dim: Size of the hidden layers.
      num_layers: Number of layers after the embedding, the output layer counted; at least 2.
      bias: Whether layers have biases.
      film_cfg: Configuration of a ``FilterFiLM``; given, the filter takes a condition, and every hidden layer's
        output is scaled and shifted. ``hidden_dim`` and ``num_layers`` are filled in.
      film_on_embedding: Whether the embedding is scaled and shifted too; it then has ``hidden_dim`` values.

    Raises:
      ConfigurationError: A size is out of its range.
    """

    def __init__(
        self,
        channels: int,
        *,
        data_dim: int,
        trained_reach: int | Sequence[int],
        embedding_dim: int,
        hidden_dim: int,
        num_layers: int,
        bias: bool,
        film_cfg: Config[FilterFiLM] | None,
        film_on_embedding: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.trained_reach = per_axis("trained_reach", trained_reach, data_dim, least=2)
        for name, value, least in (
            ("channels", channels, 1),
            ("hidden_dim", hidden_dim, 1),
            ("embedding_dim", embedding_dim, 1),
            ("num_layers", num_layers, 2),
        ):
            if value < least:
                raise ConfigurationError(f"{name} is {value}; accepted are integers >= {least}")
        if film_on_embedding and embedding_dim != hidden_dim:
            raise ConfigurationError(
                f"embedding_dim is {embedding_dim} and hidden_dim {hidden_dim}; with film_on_embedding they must agree"
            )
        self.film_on_embedding = film_on_embedding
        self.channels, self.data_dim, self.embedding_dim = channels, data_dim, embedding_dim
        sizes = [embedding_dim] + [hidden_dim] * (num_layers - 1)
        self.hidden = nn.ModuleList(
            FullPrecisionLinear(a, b, bias=bias, device=device, dtype=dtype) for a, b in itertools.pairwise(sizes)
        )
        self.out = FullPrecisionLinear(hidden_dim, channels, bias=bias, device=device, dtype=dtype)
        self.film = (
            None
            if film_cfg is None
            else instantiate(
                film_cfg,
                hidden_dim=hidden_dim,
                num_layers=num_layers - 1 + film_on_embedding,
                device=device,
                dtype=dtype,
            )
        )

    @property
    def takes_condition(self) -> bool:
        """Whether ``forward`` makes filters per sample from a condition."""
        return self.film is not None

    def embed(self, position: Float[Tensor, "*tap axis"]) -> Float[Tensor, "*tap embedding"]:
        """Embeds coordinates; each subclass in its own way."""
        raise TypeError(f"{type(self).__name__} does not say how it embeds positions")

    def activate(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        """The activation of the hidden layers."""
        return x.sin()

    def forward(
        self, offsets: Offsets, condition: Float[Tensor, "batch condition"] | None = None
    ) -> Float[Tensor, "sample channel ..."]:
        """Returns the taps at all combinations of offsets, in float32 (float64 in a float64 model).

        Args:
          offsets: One range of offsets an axis; offset 0 multiplies the current sample.
          condition: One vector a sample, for a filter with FiLM.

        Raises:
          InputMismatch: A condition was given to a filter without FiLM, or the ranges do not fit the axes.
        """
        if condition is not None and self.film is None:
            raise InputMismatch("a condition was given, but the filter has no film_cfg to use it")
        film = None if condition is None or self.film is None else self.film(condition)
        weight = self.out.weight
        x = self.embed(filter_positions(offsets, self.trained_reach, weight.device, weight.dtype)).unsqueeze(0)
        if self.film_on_embedding:
            x = self._conditioned(x, film, 0)
        for index, layer in enumerate(self.hidden, start=int(self.film_on_embedding)):
            x = self._conditioned(self.activate(layer(x)), film, index)
        return self.out(x).movedim(-1, 1)

    def _conditioned(self, x: Tensor, film: Tensor | None, index: int) -> Tensor:
        """Scales and shifts the output of a layer, one of its own for every sample."""
        if film is None:
            return x
        scale, shift = (film[:, index, part].reshape(-1, *[1] * self.data_dim, film.shape[-1]) for part in (0, 1))
        return scale * x + shift

    def flop_count(self, taps: int) -> int:
        """Counts the matrix products and activations of ``taps`` taps of every channel."""
        widths = [self.embedding_dim, *(layer.out_features for layer in self.hidden)]  # pyright: ignore
        products = self.data_dim * self.embedding_dim + self.out.weight.numel()
        products += sum(layer.weight.numel() for layer in self.hidden)  # pyright: ignore
        acted_on = widths if self.film_on_embedding else widths[1:]
        film = 0 if self.film is None else self.film.flop_count() + 2 * taps * sum(acted_on)  # pyright: ignore
        return taps * (2 * products + sum(widths)) + film  # pyright: ignore[reportReturnType]

    def _scale_output(self) -> None:
        """Makes the sum of squares of a filter at its trained size independent of that size."""
        if not self.out.weight.is_meta:
            with torch.no_grad():
                self.out.weight.mul_(math.prod(self.trained_reach) ** -0.5)
