"""Two linear layers of the same rows, multiplied with each other: the public function."""

from torch import Tensor
from torch.nn import functional

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._known_calls import implementation_for
from subquad.ops.axes import ManyProducts, ManyVectors, Weight
from subquad.ops.errors import DtypeMismatch, ShapeMismatch
from subquad.ops.gated_product import gated_product
from subquad.ops.gated_product.gated_product import GateActivation

_ACTIVATIONS = (None, "gelu")


def gated_linear(
    x: ManyVectors,
    gate_weight: Weight,
    value_weight: Weight,
    *,
    activation: GateActivation | None = None,
    backend: str = "auto",
) -> ManyProducts:
    """Multiplies rows by two matrices and the results with each other.

    ``y = activation(x @ gate_weight.T) * (x @ value_weight.T)``, the first half of a two-branch MLP;
    `gated_linear_step` is its decode step, with the norm in front.

    Args:
      x: ``[..., input]``.
      gate_weight: ``[output, input]`` in the dtype of x.
      value_weight: likewise.
      activation: ``"gelu"`` (exact, with erf) or None, which leaves the gate as it is.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[..., output]`` in the dtype of x. The ``cuda`` form sums, multiplies and activates in float32 and rounds once;
      the torch form rounds gate and value to that dtype in between, and takes `gated_product` under the same
      ``backend``.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    chosen = implementation_for(_decide, (x, gate_weight, value_weight), activation, backend)
    if chosen is None:
        return compute_in_torch(x, gate_weight, value_weight, activation=activation, backend=backend)
    return chosen.run(x, gate_weight, value_weight, activation=activation)


def _decide(
    x: Tensor, gate_weight: Tensor, value_weight: Tensor, activation: str | None, backend: str
) -> dispatch.Implementation | None:
    """Checks a call and chooses its implementation."""
    check(x, gate_weight, value_weight, activation)
    return dispatch.choose(describe(x, gate_weight, value_weight, activation=activation), backend)[0]


def check(x: Tensor, gate_weight: Tensor, value_weight: Tensor, activation: str | None) -> None:
    """Raises unless the arguments of a call fit each other."""
    _checks.floating("x", x)
    _checks.one_of("activation", activation, _ACTIVATIONS)
    for name, weight in (("gate_weight", gate_weight), ("value_weight", value_weight)):
        _checks.floating(name, weight)
        _checks.same_device(name, weight, "x", x)
        if weight.dtype != x.dtype:
            raise DtypeMismatch(f"{name} is {weight.dtype}, x {x.dtype}; they must agree")
        if x.dim() < 1 or weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
            needed = f"(output, {x.shape[-1] if x.dim() else 'input'})"
            raise ShapeMismatch(f"{name} has shape {tuple(weight.shape)}; x {tuple(x.shape)} needs {needed}")
    if gate_weight.shape != value_weight.shape:
        shapes = f"{tuple(gate_weight.shape)} and {tuple(value_weight.shape)}"
        raise ShapeMismatch(f"gate_weight and value_weight have shapes {shapes}; they must agree")


def describe(x: Tensor, gate_weight: Tensor, value_weight: Tensor, *, activation: str | None = None) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    inputs = x.shape[-1]
    return dispatch.Call(
        operator="gated_linear",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=1,
        channels=gate_weight.shape[0],
        length=x.numel() // inputs if inputs else 0,
        taps=0,
        inputs=inputs,
        options=frozenset() if activation is None else frozenset({activation}),
        gradient=dispatch.gradient_wanted(x, gate_weight, value_weight),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor,
    gate_weight: Tensor,
    value_weight: Tensor,
    *,
    activation: GateActivation | None,
    backend: str = "torch",
) -> Tensor:
    """Computes the checked call as two products of torch and what ``backend`` has for their product."""
    gate, value = functional.linear(x, gate_weight), functional.linear(x, value_weight)
    if activation is None and x.device.type == "cpu" and dispatch.runs_plainly(x, gate_weight, value_weight):
        return gate.mul_(value)  # new memory costs more than the product
    return gated_product(gate, value, activation=activation, backend=backend)
