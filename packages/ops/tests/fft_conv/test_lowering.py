"""The backend of torch.compile that replaces written-out FFT convolutions: results, counters and reasons."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from subquad.ops import FftConvLowering, fft_conv
from tools.testing.oracle import assert_close

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _lowered(recipe: Callable[..., Tensor], *inputs: Tensor) -> tuple[FftConvLowering, GraphModule]:
    """Compiles a recipe, holds its result and gradients to the uncompiled ones; returns the lowering and the graph."""
    graphs: list[GraphModule] = []

    def keep(module: GraphModule, _: list[Tensor]) -> GraphModule:
        graphs.append(module)
        return module

    lowering = FftConvLowering(keep)
    leaves = [x.requires_grad_() for x in inputs]
    got, expected = torch.compile(recipe, backend=lowering, fullgraph=True)(*leaves), recipe(*leaves)
    assert_close(got, expected, 1e-12)
    upstream = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert_close(a, b, 1e-11)
    return lowering, graphs[0]


def _image(x: Tensor, w: Tensor) -> Tensor:
    (a, b), (i, j) = (x.shape[-2:], w.shape[-2:])
    s = (a + i - 1, b + j - 1)
    y = torch.fft.irfft2(torch.fft.rfft2(x, s=s) * torch.fft.rfft2(w, s=s), s=s)
    return y[..., i // 2 : i // 2 + a, j // 2 : j // 2 + b]


def _causal(x: Tensor, w: Tensor) -> Tensor:
    n = x.shape[-1] + w.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(w, n=n) * torch.fft.rfft(x, n), n=n)[:, :, : x.shape[-1]]


def _volume(x: Tensor, w: Tensor) -> Tensor:
    s = [2 * size for size in x.shape[2:]]
    spectrum = torch.mul(torch.fft.rfftn(x, s=s, dim=(2, 3, 4)), torch.fft.rfftn(w, s=s, dim=(1, 2, 3)).unsqueeze(0))
    y = torch.fft.irfftn(spectrum, s=s, dim=(-3, -2, -1))
    a, b, c = (tap // 2 for tap in w.shape[1:])
    return y[..., a : a + x.shape[2], b : b + x.shape[3], c : c + x.shape[4]]


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


RECIPES = {
    "image": (_image, (2, 3, 8, 7), (3, 5, 4)),
    "image, a filter a sample": (_image, (2, 3, 8, 7), (2, 3, 15, 13)),
    "causal": (_causal, (2, 3, 9), (3, 9)),
    "volume": (_volume, (1, 2, 4, 5, 3), (2, 3, 4, 1)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_becomes_one_call_and_is_counted(name: str) -> None:
    recipe, grid, taps = RECIPES[name]
    lowering, module = _lowered(recipe, _random(*grid), _random(*taps))
    assert lowering.statistics.convolutions == 1
    assert not lowering.statistics.skipped
    targets = [node.target for node in module.graph.nodes if node.op.startswith("call")]
    assert targets == [fft_conv]


def test_the_counter_is_the_number_of_convolutions() -> None:
    lowering, _ = _lowered(
        lambda x, w, v: _image(_image(x, w).tanh(), v) + _image(x, v), _random(1, 2, 6, 6), *_random(2, 2, 3, 3)
    )
    assert lowering.statistics.convolutions == 3


def _late(x: Tensor, w: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, n=20) * torch.fft.rfft(w, n=20), n=20)[..., 1:9]


def _short(x: Tensor, w: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, n=8) * torch.fft.rfft(w, n=8), n=8)[..., :8]


def _scaled(x: Tensor, w: Tensor) -> Tensor:
    y = torch.fft.irfft(torch.fft.rfft(x, n=20, norm="ortho") * torch.fft.rfft(w, n=20), n=20, norm="ortho")
    return y[..., :8]


def _in_place(x: Tensor, w: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x, n=20)
    spectrum.mul_(torch.fft.rfft(w, n=20))
    return torch.fft.irfft(spectrum, n=20)[..., :8]


def _used_twice(x: Tensor, w: Tensor) -> Tensor:
    y = torch.fft.irfft(torch.fft.rfft(x, n=20) * torch.fft.rfft(w, n=20), n=20)
    return y[..., :8] + y.sum()


def _one_spectrum(x: Tensor, w: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, n=20) * 2, n=20)[..., :8] + w.sum()


def _other_axis(x: Tensor, w: Tensor) -> Tensor:
    y = torch.fft.irfft(torch.fft.rfft(x, n=20, dim=1) * torch.fft.rfft(w, n=20, dim=0).unsqueeze(-1), n=20, dim=1)
    return y[:, :3]


SKIPPED = {
    "neither at the centre": _late,
    "so short that the ends": _short,
    "a transform is scaled": _scaled,
    "taken in place": _in_place,
    "used more than once": _used_twice,
    "not a product of two": _one_spectrum,
    "not the last one to three": _other_axis,
}


@pytest.mark.parametrize("reason", SKIPPED)
def test_what_is_left_is_counted_under_its_reason(reason: str) -> None:
    lowering, _ = _lowered(SKIPPED[reason], _random(2, 3, 8), _random(3, 5) if reason[:7] != "not the" else _random(3))
    assert lowering.statistics.convolutions == 0
    (found,) = lowering.statistics.skipped
    assert reason in found
    assert lowering.statistics.skipped[found] == 1


def test_sizes_that_change_are_left() -> None:
    lowering = FftConvLowering("eager")
    compiled = torch.compile(_causal, backend=lowering, dynamic=True)
    x, w = _random(1, 2, 9), _random(2, 4)
    assert_close(compiled(x, w), _causal(x, w), 1e-12)
    assert lowering.statistics.convolutions == 0
    assert "a size is not known when compiling" in lowering.statistics.skipped


def test_it_goes_on_to_a_named_compiler() -> None:
    lowering = FftConvLowering("aot_eager", backend="torch")
    x, w = _random(2, 3, 8, 7), _random(3, 5, 4)
    assert_close(torch.compile(_image, backend=lowering)(x, w), _image(x, w), 1e-12)
    assert lowering.statistics.convolutions == 1
