"""One token through linears, norms and gated MLPs, fused where the linears are plain or rounded ones."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.parts.gated_mlp import GatedMLP
from subquad.modules.parts.low_rank_linear import LowRankLinear, is_plain
from subquad.modules.parts.rms_norm import RMSNorm
from subquad.modules.parts.rounded_linear import RoundedLinear
from subquad.ops import RoundedWeight, StepNorm, StepProjection, gated_linear_step, linear_step, prepare


def plain_weight(linear: nn.Module, x: Tensor) -> Tensor | None:
    """Returns the matrix of a linear that is nothing but ``weight @ x + bias``; None for any other module."""
    if not is_plain(linear):
        return None
    weight = linear.weight
    return weight if isinstance(weight, Tensor) and weight.dtype == x.dtype else None


def step_weight(linear: nn.Module, x: Tensor) -> Tensor | RoundedWeight | None:
    """Returns the matrix of a linear as decode steps take it, of one byte a number too; None for any other module."""
    if type(linear) is RoundedLinear:
        return RoundedWeight(linear.weight, linear.weight_scale)
    return plain_weight(linear, x)


def next_weight(linear: nn.Module, x: Tensor) -> Tensor | None:
    """Returns the numbers that a decode step of this linear will read."""
    if type(linear) is LowRankLinear:  # which lie nowhere yet
        return None
    return linear.weight if type(linear) is RoundedLinear else plain_weight(linear, x)


def step_norm(norm: RMSNorm) -> StepNorm:
    """Describes a norm to an operator that takes it along."""
    return StepNorm(norm.scale, norm.eps, norm.form)


def step_projection(linear: nn.Module, norm: RMSNorm, x: Tensor) -> StepProjection | None:
    """Describes a norm and a linear behind it to an operator; None where the linear is neither plain nor rounded."""
    weight = step_weight(linear, x)
    return (
        None if weight is None or getattr(linear, "bias", None) is not None else StepProjection(weight, step_norm(norm))
    )


def linear_through(
    linear: nn.Module,
    x: Float[Tensor, "batch input"],
    *,
    norm: RMSNorm | None = None,
    residual: Float[Tensor, "batch output"] | None = None,
    upcoming: Tensor | None = None,
) -> Float[Tensor, "batch output"]:
    """Computes ``linear(norm(x)) + residual``; ``upcoming`` are the weights that are read next."""
    weight = step_weight(linear, x)
    if weight is not None:
        assert isinstance(linear, nn.Linear | LowRankLinear | RoundedLinear)
        before = None if norm is None else step_norm(norm)
        return linear_step(x, weight, norm=before, bias=linear.bias, residual=residual, upcoming=upcoming)
    y = linear(x if norm is None else norm(x))
    return y if residual is None else y + residual


def prepared_linear(
    linear: nn.Module,
    x: Float[Tensor, "batch input"],
    *,
    norm: RMSNorm | None = None,
    residual: Float[Tensor, "batch output"] | None = None,
) -> Callable[..., Tensor]:
    """Returns ``linear_through`` for inputs like these, as a function of x, and of ``residual`` where there is one."""
    weight = step_weight(linear, x)
    if weight is None:
        return partial(linear_through, linear, norm=norm)
    assert isinstance(linear, nn.Linear | LowRankLinear | RoundedLinear)
    before = None if norm is None else step_norm(norm)
    return prepare("linear_step", x, weight, norm=before, bias=linear.bias, residual=residual)


def mlp_through(
    mlp: GatedMLP,
    x: Float[Tensor, "batch channel"],
    *,
    norm: RMSNorm,
    residual: Float[Tensor, "batch channel"] | None,
    upcoming: Tensor | None = None,
) -> Float[Tensor, "batch channel"]:
    """Computes ``mlp(norm(x)) + residual``."""
    branches = _branches(mlp, x)
    if branches is None:
        y = mlp(norm(x))
        return y if residual is None else y + residual
    gate, value = branches
    activation = "gelu" if mlp.activation == "gelu" else None
    following = next_weight(mlp.l3, x)
    inner = gated_linear_step(x, gate, value, norm=step_norm(norm), activation=activation, upcoming=following)
    return linear_through(mlp.l3, inner, residual=residual, upcoming=upcoming)


def prepared_mlp(
    mlp: GatedMLP, x: Float[Tensor, "batch channel"], *, norm: RMSNorm, has_residual: bool
) -> Callable[[Tensor], Tensor]:
    """Returns ``mlp_through`` for inputs like x, as a function of x, which is the residual too where there is one."""
    branches = _branches(mlp, x)
    if branches is None:
        return lambda x: mlp_through(mlp, x, norm=norm, residual=x if has_residual else None)
    activation = "gelu" if mlp.activation == "gelu" else None
    inward = prepare("gated_linear_step", x, *branches, norm=step_norm(norm), activation=activation)
    inner = x.new_zeros(x.shape[0], mlp.l1.weight.shape[0])
    if not has_residual:
        outward = prepared_linear(mlp.l3, inner)
        return lambda x: outward(inward(x))
    outward = prepared_linear(mlp.l3, inner, residual=x)
    return lambda x: outward(inward(x), residual=x)


def _branches(mlp: GatedMLP, x: Tensor) -> tuple[Tensor | RoundedWeight, Tensor | RoundedWeight] | None:
    """Returns the matrices of both branches as decode steps take them; None where they do not."""
    gate, value = step_weight(mlp.l1, x), step_weight(mlp.l2, x)
    if gate is None or value is None or mlp.l1.bias is not None or mlp.l2.bias is not None:
        return None
    return gate, value
