"""What the tests of the decode kernels have in common: random arguments, and the comparison with float64."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from subquad import ops
from tools.testing.oracle import assert_as_exact_as


def random_values(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Numbers of a normal distribution on the GPU."""
    return torch.randn(shape, device="cuda").to(dtype)


def matrix(outputs: int, inputs: int) -> Tensor:
    """A matrix whose products are about as large as what they are made of."""
    return (torch.randn(outputs, inputs, device="cuda") / inputs**0.5).bfloat16()


def rounded(weight: Tensor) -> ops.RoundedWeight:
    """The same with one byte a number."""
    scales = ops.row_scales(weight)
    return ops.RoundedWeight(ops.round_to_e4m3(weight, scales), scales[:, 0].contiguous())


def norm_of(form: Any, inputs: int) -> ops.StepNorm | None:
    """A norm with a random scale, or none."""
    return None if form is None else ops.StepNorm(random_values(inputs), 1e-3, form)


def wide(value: Any) -> Any:
    """What a call is given, in float64."""
    if isinstance(value, ops.RoundedWeight):
        return value
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    return type(value)(*map(wide, value)) if isinstance(value, tuple) else value


def hold(operator: Callable[..., Tensor], *inputs: Any, **options: Any) -> None:
    """Raises unless the CUDA form is as exact as the torch form."""
    got = operator(*inputs, **options, backend="cuda")
    plain = operator(*inputs, **options, backend="torch")
    oracle = operator(*map(wide, inputs), **{name: wide(value) for name, value in options.items()}, backend="torch")
    assert_as_exact_as(operator.__name__, oracle, plain, got)
