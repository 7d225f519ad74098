"""Filters from sine networks (SIREN), with one frequency, one per row, or learnable ones."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.lazy_config import Config
from subquad.modules.errors import ConfigurationError
from subquad.modules.filters.film import FilterFiLM
from subquad.modules.filters.full_precision_linear import FullPrecisionLinear
from subquad.modules.filters.network import ImplicitFilter
from subquad.modules.filters.positions import limited
from subquad.modules.parts.full_precision import FullPrecisionModule, full_precision_dtype
from subquad.modules.parts.initialization import reset_constant, reset_uniform


class SIRENFilter(FullPrecisionModule, ImplicitFilter):
    """A sine network of positions: ``h = out(sin(hidden(... sin(2 * pi * omega_0 * (W p + b)))))``.

    ``omega_0`` is folded into ``W`` and ``b``, unless frequencies are learnable. Rows of the embedding may have
    frequencies of their own: with ``omega_0`` a sequence, each value serves an equal run of rows; with
    ``off_block_scale`` the layers behind start near block-diagonal, so that each run of channels keeps to its band.

    Args:
      channels: Number of filters.
      data_dim: Axes of space, 1 to 3.
      trained_reach: Taps on one side at which a coordinate reaches 1, per axis or for all; at least 2.
      omega_0: Highest number of periods per unit of position that the first layer starts with; positive. One, or a
        sequence whose length divides ``embedding_dim``.
      hidden_dim: Size of the hidden layers.
      embedding_dim: Rows of the first layer; None for ``hidden_dim``.
      num_layers: Layers after the first, the output layer counted; at least 2.
      hidden_omega_0: Divides the initial weights of the hidden layers.
      learnable_omega: Whether each row has a learnable factor of its frequency, 1 at first, kept within
        ``omega_bounds`` as it acts.
      omega_bounds: Least and greatest factor; positive.
      scale_learning_rate: With learnable frequencies the first layer does not hold them, and learns as slowly as if it
        did with a learning-rate scale of ``1 / (2 * pi * max(omega_0))``; see ``ParameterTags``.
      off_block_scale: Factor of initial weights between different runs of frequencies; None for no blocks.
      bias: Whether layers have biases.
      film_cfg: See ``ImplicitFilter``.
      film_on_embedding: See ``ImplicitFilter``.

    Raises:
      ConfigurationError: A size or a frequency is out of its range, or sizes do not divide into the frequencies.

    Source: Sitzmann et al., Implicit neural representations with periodic activation functions, 2020.
    """

    full_precision_names = frozenset({"omega_scale", "omega"})
    no_weight_decay = frozenset({"omega_scale"})
    omega_scale: Tensor | None
    omega: Tensor

    def __init__(
        self,
        channels: int,
        *,
        trained_reach: int | Sequence[int],
        data_dim: int = 1,
        omega_0: float | Sequence[float] = 10.0,
        hidden_dim: int = 32,
        embedding_dim: int | None = None,
        num_layers: int = 3,
        hidden_omega_0: float = 1.0,
        learnable_omega: bool = False,
        omega_bounds: tuple[float, float] = (1e-2, 2.0),
        scale_learning_rate: bool = False,
        off_block_scale: float | None = None,
        bias: bool = True,
        film_cfg: Config[FilterFiLM] | None = None,
        film_on_embedding: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        embedding_dim = hidden_dim if embedding_dim is None else embedding_dim
        super().__init__(
            channels,
            data_dim=data_dim,
            trained_reach=trained_reach,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            bias=bias,
            film_cfg=film_cfg,
            film_on_embedding=film_on_embedding,
            device=device,
            dtype=dtype,
        )
        self.num_bands = _check_frequencies(omega_0, embedding_dim, omega_bounds)
        if off_block_scale is not None:
            _check_blocks(self.num_bands, {"hidden_dim": hidden_dim, "channels": channels})
        self.omega_0, self.hidden_omega_0 = omega_0, hidden_omega_0
        self.omega_bounds, self.off_block_scale = omega_bounds, off_block_scale
        self.first = FullPrecisionLinear(data_dim, embedding_dim, bias=bias, device=device, dtype=dtype)
        if scale_learning_rate and learnable_omega:
            scale = 1 / (2 * math.pi * max([omega_0] if isinstance(omega_0, float | int) else omega_0))
            self.first.learning_rate_scales = {"weight": scale, "bias": scale}
        wide = full_precision_dtype(dtype)
        self.register_buffer("omega", torch.empty(embedding_dim, device=device, dtype=wide), persistent=False)
        factor = nn.Parameter(torch.empty(embedding_dim, device=device, dtype=wide)) if learnable_omega else None
        self.register_parameter("omega_scale", factor)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the first layer from ``U(-b, b)`` with ``b = 2 * pi * omega_0 / axes`` (``1 / axes`` with learnable
        frequencies) and the others with ``b = sqrt(6 / in) / (2 * pi * hidden_omega_0)``; biases are zero.
        """
        values = [self.omega_0] if isinstance(self.omega_0, float | int) else list(self.omega_0)
        if not self.omega.is_meta:
            repeats = self.embedding_dim // len(values)
            self.omega.copy_(2 * math.pi * torch.tensor(values, dtype=torch.float64).repeat_interleave(repeats))
        reset_uniform(self.first.weight, self.data_dim**-2, generator)
        if self.omega_scale is None and not self.omega.is_meta:
            with torch.no_grad():
                self.first.weight.mul_(self.omega.unsqueeze(1))
        reset_constant(self.omega_scale, 1.0)
        for layer in (*self.hidden, self.out):
            assert isinstance(layer, FullPrecisionLinear)
            reset_uniform(layer.weight, 6 / layer.in_features / (2 * math.pi * self.hidden_omega_0) ** 2, generator)
            if self.off_block_scale is not None and not layer.weight.is_meta:
                with torch.no_grad():
                    layer.weight.mul_(_block_factors(layer.weight.shape, self.num_bands, self.off_block_scale))
        for layer in (self.first, *self.hidden, self.out):
            reset_constant(layer.bias, 0.0)  # pyright: ignore[reportArgumentType]
        self._scale_output()

    def frequencies(self) -> Float[Tensor, " embedding"]:
        """Returns ``2 * pi * omega_0`` of each row as it acts, learnable factors within their bounds."""
        return self.omega if self.omega_scale is None else self.omega * limited(self.omega_scale, *self.omega_bounds)

    def embed(self, position: Float[Tensor, "*tap axis"]) -> Float[Tensor, "*tap embedding"]:
        """Returns the sines of the first layer."""
        x = self.first(position)
        return (x if self.omega_scale is None else x * self.frequencies()).sin()


def _check_frequencies(omega_0: float | Sequence[float], embedding_dim: int, bounds: tuple[float, float]) -> int:
    values = [omega_0] if isinstance(omega_0, float | int) else list(omega_0)
    if not values or min(values) <= 0 or embedding_dim % len(values):
        raise ConfigurationError(
            f"omega_0 is {omega_0!r}; accepted are positive numbers, as many as divide {embedding_dim} rows"
        )
    if not 0 < bounds[0] <= 1 <= bounds[1]:
        raise ConfigurationError(f"omega_bounds are {bounds}; accepted are 0 < least <= 1 <= greatest")
    return len(values)


def _check_blocks(bands: int, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if size % bands:
            raise ConfigurationError(f"{name} is {size}; with off_block_scale the {bands} frequencies must divide it")


def _block_factors(shape: torch.Size, bands: int, off_block_scale: float) -> Tensor:
    rows, columns = (torch.arange(size) * bands // size for size in shape)
    return torch.where(rows[:, None] == columns[None], 1.0, off_block_scale)
