"""Linear layers whose weights stay as they are and get a trained correction of low rank (LoRA)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.modules.errors import ConfigurationError
from subquad.modules.parts.initialization import reset_constant, reset_uniform
from subquad.modules.widths import require_positive


class LowRankLinear(nn.Module):
    """``y = linear(x) + alpha / rank * dropout(x) @ down.T @ up.T``, with a layer ``linear`` that is not trained.

    Initially ``up`` is zero, so that nothing changes. It is no ``nn.Linear``, so that no fused operator takes the
    weight of ``linear`` for the whole of it, and whoever reads ``weight`` gets the sum. In eval mode without gradients
    it multiplies by that, as the layer will that `merge_low_rank` makes of it: bit for bit.

    Args:
      linear: The layer. It becomes a part of this one, and its parameters take no gradients any more.
      rank: Columns of ``up`` and rows of ``down``, 1 or more.
      alpha: Size of the correction, which is divided by ``rank``.
      dropout: Share of the inputs of ``down`` that are zero in training mode, 0 to below 1.
      generator: Draws ``down`` from ``U(-1 / sqrt(in_features), 1 / sqrt(in_features))``.

    Attributes:
      down: ``[rank, in_features]``, in the type of the weight.
      up: ``[out_features, rank]``.

    Raises:
      ConfigurationError: ``rank``, ``alpha`` or ``dropout`` is outside its range.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
    """

    def __init__(
        self,
        linear: nn.Linear,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require_positive(rank=rank)
        if not 0 < alpha < float("inf") or not 0 <= dropout < 1:
            accepted = "accepted are a finite alpha above 0 and a dropout from 0 to below 1"
            raise ConfigurationError(f"alpha is {alpha} and dropout {dropout}; {accepted}")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(linear.weight.new_empty(rank, self.in_features))
        self.up = nn.Parameter(linear.weight.new_empty(self.out_features, rank))
        reset_uniform(self.down, 1 / self.in_features, generator)
        reset_constant(self.up, 0.0)
        self.train(linear.training)

    def forward(self, input: Float[Tensor, "... channel"]) -> Float[Tensor, "... row"]:
        """Multiplies the last axis."""
        if self.is_settled:
            return functional.linear(input, self.weight, self.bias)
        inner = functional.linear(functional.dropout(input, self.dropout, self.training), self.down)
        return self.linear(input) + functional.linear(inner, self.up) * (self.alpha / self.rank)

    @property
    def is_settled(self) -> bool:
        """Whether it now multiplies by ``weight``."""
        layer = self.linear
        watched = layer._forward_hooks or layer._forward_pre_hooks
        return not (self.training or torch.is_grad_enabled() or watched) and type(layer) is nn.Linear

    @property
    def weight(self) -> Float[Tensor, "row channel"]:
        """The sum of both, in the type of the weight: computed at every look, in float64.

        Raises:
          ConfigurationError: The layer was made another, such as a rounded one.
        """
        if type(self.linear) is not nn.Linear:
            kind = type(self.linear).__name__
            raise ConfigurationError(f"a weight was read after its layer became a {kind}; accepted is to merge before")
        whole, correction = self.linear.weight.double(), self.up.double() @ self.down.double()
        return (whole + correction * (self.alpha / self.rank)).to(self.linear.weight.dtype)

    @property
    def bias(self) -> Float[Tensor, " row"] | None:
        """The bias of the layer, which is not trained."""
        return self.linear.bias

    def extra_repr(self) -> str:
        """Names what the correction is made of."""
        return f"rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}"


def is_plain(linear: nn.Module) -> bool:
    """Says whether a module computes ``x @ weight.T + bias`` now, by numbers that may be read from it."""
    return type(linear) is nn.Linear or (type(linear) is LowRankLinear and linear.is_settled)


def adapt_linears(
    network: nn.Module,
    targets: Iterable[str],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Puts a `LowRankLinear` in the place of linear layers; from then on only their corrections take gradients.

    Args:
      network: Changed in place.
      targets: Names of modules of the network, or ends of such names: ``"mlp.l1"`` are those of all blocks.
      rank, alpha, dropout, generator: See `LowRankLinear`.

    Returns:
      The names of the layers that have one now.

    Raises:
      ConfigurationError: A target names nothing or no plain linear layer, or a layer shares its weight with another
        module, which would get the correction when it is merged; nothing was changed.
    """
    owners = [id(p) for module in network.modules() for p in module._parameters.values() if p is not None]
    found: dict[str, nn.Module] = {}
    for target in targets:
        named = {n: m for n, m in network.named_modules(remove_duplicate=False) if f".{n}".endswith(f".{target}")}
        if not named or not target:
            raise ConfigurationError(f"target {target!r} names no module; accepted are {_accepted(network)}")
        for name, module in named.items():
            if type(module) is not nn.Linear:
                kind = type(module).__name__
                raise ConfigurationError(f"target {target!r}: {name} is {kind}; accepted is nn.Linear itself")
            if owners.count(id(module.weight)) > 1:
                raise ConfigurationError(f"target {target!r}: {name} shares its weight with another module")
        found |= named
    network.requires_grad_(False)
    made: dict[nn.Module, LowRankLinear] = {}
    for name, module in found.items():
        assert isinstance(module, nn.Linear)
        if module not in made:
            made[module] = LowRankLinear(module, rank=rank, alpha=alpha, dropout=dropout, generator=generator)
        _replace(network, name, made[module])
    return list(found)


@torch.no_grad()
def merge_low_rank(network: nn.Module) -> int:
    """Adds every correction of `adapt_linears` to the weight of its layer, and puts that in its old place.

    The network then has the parts and the names that it had before; its parameters take no gradients.

    Returns:
      How many there were.

    Raises:
      ConfigurationError: A layer was made another meanwhile, such as a rounded one.
    """
    adapted = {n: m for n, m in network.named_modules(remove_duplicate=False) if isinstance(m, LowRankLinear)}
    for layer in set(adapted.values()):
        layer.linear.weight.copy_(layer.weight)
    for name, layer in adapted.items():
        _replace(network, name, layer.linear)
    return len(adapted)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _accepted(network: nn.Module) -> str:
    """Names the linear layers of a network by the last part of their names."""
    linears = [n.rpartition(".")[2] for n, m in network.named_modules() if type(m) is nn.Linear]
    return ", ".join(dict.fromkeys(linears)) or "none, for the network has no plain linear layer"
