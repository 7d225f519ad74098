"""What a module registers is found as ``nn.Module`` would find it, and at once."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subquad.modules import RMSNorm
from subquad.modules.parts.registered import registered


class _Scaled(nn.Module):
    weight: Tensor | None = registered("parameter")
    offset: Tensor = registered("buffer")
    inner: nn.Module = registered("module")

    def __init__(self, *, has_weight: bool = True) -> None:
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.full((3,), 2.0)) if has_weight else None)
        self.register_buffer("offset", torch.ones(3))
        self.inner = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return self.inner(x) * self.weight + self.offset


class _Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_what_is_registered_is_found_and_nothing_is_looked_for_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    module, norm = _Scaled(), RMSNorm(3)

    def searched(self: nn.Module, name: str) -> None:
        raise AssertionError(f"nn.Module looked for {name}")

    monkeypatch.setattr(nn.Module, "__getattr__", searched)
    assert module.weight is module._parameters["weight"]
    assert module.offset is module._buffers["offset"]
    assert module.inner is module._modules["inner"]
    assert norm.scale is norm._parameters["scale"]


def test_what_takes_the_place_is_found() -> None:
    module, x = _Scaled(), torch.randn(2, 3)
    module.inner, module.offset, module.weight = nn.Identity(), torch.zeros(3), nn.Parameter(torch.full((3,), 5.0))
    assert torch.equal(module(x), 5 * x)
    assert {name for name, _ in module.named_parameters()} == {"weight"}
    module.weight.data = torch.full((3,), 7.0)
    assert torch.equal(module(x), 7 * x)
    del module.weight
    module.weight = torch.full((3,), 3.0)  # on the module itself, as hooks that make a weight leave it
    assert torch.equal(module(x), 3 * x)
    del module.offset
    module.register_parameter("offset", nn.Parameter(torch.ones(3)))  # of another kind than was said
    assert torch.equal(module(x), 3 * x + 1)
    assert module.to(torch.float64)(x.double()).dtype == torch.float64


def test_what_is_missing_is_told_of_and_none_is_found() -> None:
    assert _Scaled(has_weight=False).weight is None
    module = _Scaled()
    del module.inner
    assert not hasattr(module, "inner")
    with pytest.raises(AttributeError, match="'_Scaled' object has no attribute 'inner'"):
        _ = module.inner
    with pytest.raises(KeyError, match="attribute 'forward' already exists"):
        module.register_buffer("forward", torch.ones(1))


def test_copies_functional_calls_and_parametrisations_have_their_own() -> None:
    module, x = _Scaled(), torch.randn(2, 3)
    copied = copy.deepcopy(module)
    assert copied.weight is not module.weight
    swapped = {"weight": torch.zeros(3), "offset": torch.full((3,), 4.0)}
    assert torch.equal(torch.func.functional_call(module, swapped, (x,)), torch.full((2, 3), 4.0))
    assert torch.equal(module(x), copied(x))
    parametrize.register_parametrization(copied, "weight", _Halved())
    assert torch.equal(copied.weight, torch.ones(3))  # pyright: ignore[reportArgumentType]


def test_a_compiled_module_sees_what_takes_the_place() -> None:
    module, x = _Scaled(), torch.randn(2, 3)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), module(x))
    module.inner, module.weight = nn.Identity(), nn.Parameter(torch.full((3,), 5.0))
    assert torch.equal(compiled(x), module(x))
