"""Every argument of every operator is held to x before anything is computed; the error says what it got."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from packages.ops.tests.every_operator import BATCH, CASES
from subquad import ops

pytestmark = pytest.mark.usefixtures("unchecked")


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))


# What is done to an argument, the error, and one of the words that it must say of what it got.
FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], type[Exception], Callable[[Tensor], tuple[str, ...]]]] = {
    "on another device": (lambda t: t.to("meta"), ops.DeviceMismatch, lambda t: (f"on {t.device}",)),
    "of integers": (lambda t: t.long(), ops.DtypeMismatch, lambda t: (str(t.dtype),)),
    "complex": (lambda t: t.to(torch.complex64), ops.DtypeMismatch, lambda t: (str(t.dtype),)),
    "with two axes more": (lambda t: t[None, None], ops.ShapeMismatch, lambda t: (f"has {t.dim()}", _shape(t))),
    "with one axis": (lambda t: t.flatten(), ops.ShapeMismatch, lambda t: (f"has {t.dim()}", _shape(t))),
    "with more rows": (lambda t: torch.cat([t, t]), ops.ShapeMismatch, lambda t: (f"has {len(t)}", _shape(t))),
}
NOT_REARRANGE = [name for name in CASES if name != "rearrange"]  # which moves numbers of any kind, anywhere


class _Computed(TorchDispatchMode):
    """Lists the operations that make new numbers; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(value.alias_info is None for value in func._schema.returns):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NOT_REARRANGE)
def test_an_argument_that_does_not_fit_is_refused_before_anything_is_computed(name: str, fault: str) -> None:
    case, (spoil, error, got) = CASES[name], FAULTS[fault]
    inputs = case.inputs(BATCH, 9)
    first = 1 if fault in ("with more rows", "on another device") else 0  # any batch of x, on any device, is x
    for place in range(first, len(inputs)):
        spoiled = [spoil(t) if place == index else t for index, t in enumerate(inputs)]
        with pytest.raises(error) as raised, _Computed() as computed:
            case.operator(*spoiled)
        assert any(text in str(raised.value) for text in got(spoiled[place])), str(raised.value)
        assert not computed.names
