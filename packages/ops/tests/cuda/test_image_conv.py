"""The image kernels of the CUDA library on a GPU, held to float64."""

import itertools

import pytest
import torch

from subquad.ops import explain, fft_conv
from subquad.ops.fft_conv.fft_conv import compute_in_torch
from subquad.ops.fft_conv.placement import SIZES
from subquad.ops.fft_conv.reference import fft_conv_reference
from tools.testing.oracle import assert_as_exact_as, assert_close, assert_matches_oracle

pytestmark = pytest.mark.gpu
BOUNDARIES = tuple(itertools.product(("zero", "circular"), repeat=2))


def _hold(x: torch.Tensor, w: torch.Tensor, boundary: tuple[str, ...], skip: torch.Tensor | None = None) -> None:
    """Holds output and gradients to the torch form in float64, which is itself held to the definition on a CPU."""
    leaves = [t.requires_grad_() for t in (x, w, skip) if t is not None]
    upstream = torch.randn_like(x)

    def results(values: list[torch.Tensor], backend: str) -> list[torch.Tensor]:
        factor = values[2] if len(values) > 2 else None
        y = fft_conv(values[0], values[1], boundary=boundary, skip=factor, backend=backend)  # type: ignore[arg-type]
        return [y, *torch.autograd.grad(y, values, upstream.to(y))]

    wide = [t.detach().double().requires_grad_() for t in leaves]
    for name, o, p, g in zip(
        ("output", "to x", "to taps", "to skip"),
        results(wide, "torch"),
        results(leaves, "torch"),
        results(leaves, "cuda"),
        strict=False,
    ):
        assert_as_exact_as(f"{name} {tuple(x.shape)} {tuple(w.shape)} {boundary}", o, p, g)


@pytest.mark.parametrize("boundary", BOUNDARIES, ids="-".join)
@pytest.mark.parametrize("space", [(1, 1), (1, 7), (5, 6), (13, 9)], ids=str)
def test_every_tap_count_equals_the_direct_sum(space: tuple[int, int], boundary: tuple[str, str]) -> None:
    x = torch.randn(2, 3, *space, device="cuda")
    for taps in range(1, 2 * max(space) + 3):
        w = torch.randn(3, taps, (taps + 1) % 7 + 1, device="cuda")
        y = fft_conv(x, w, boundary=boundary, backend="cuda")  # type: ignore[arg-type]
        assert_close(y, fft_conv_reference(x.double(), w.double(), boundary), 1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_output_and_gradients_of_every_transform(size: int) -> None:
    side = size // 2
    for boundary, taps in itertools.product(BOUNDARIES, (3, 6, 2 * side - 1)):
        x, w = torch.randn(3, 2, side, side - 1, device="cuda"), torch.randn(2, taps, taps, device="cuda") / taps
        _hold(x, w, boundary, torch.randn(2, device="cuda"))
    x, w = torch.randn(2, 2, size, size, device="cuda"), torch.randn(2, 4, 5, device="cuda")
    _hold(x, w, ("circular", "circular"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_half_precision_and_per_sample_filters(dtype: torch.dtype, batch: int) -> None:
    for space, taps in (((14, 14), (27, 27)), ((28, 28), (5, 8)), ((37, 53), (73, 11)), ((96, 96), (7, 191))):
        x = torch.randn(batch, 3, *space, device="cuda", dtype=dtype)
        for filters in {1, batch}:
            w = (torch.randn(filters, 3, *taps, device="cuda") / taps[0]).to(dtype)
            _hold(x, w, ("zero", "circular"), torch.randn(3, device="cuda"))


def test_the_oracle_holds_output_and_gradients_against_the_definition() -> None:
    for boundary in BOUNDARIES:
        x, w = torch.randn(2, 3, 13, 9, device="cuda"), torch.randn(3, 4, 5, device="cuda") / 5
        assert_matches_oracle(
            lambda x, w, boundary=boundary: fft_conv(x, w, boundary=boundary, backend="cuda"),  # type: ignore[arg-type]
            lambda x, w, boundary=boundary: fft_conv_reference(x, w, boundary),
            x,
            w,
        )


def test_channels_last_chunks_and_strides_give_the_same() -> None:
    x, w = torch.randn(2, 4, 20, 24, device="cuda"), torch.randn(4, 9, 9, device="cuda")
    expected = fft_conv(x, w, backend="cuda")
    turned = fft_conv(x.movedim(1, -1), w.movedim(0, -1), layout="BLH", backend="cuda")
    assert torch.equal(turned.movedim(-1, 1), expected)
    assert torch.equal(fft_conv(x, w, chunk_size=3, backend="cuda"), expected)


def test_a_call_can_be_captured_in_a_graph_and_compiled() -> None:
    x, w = torch.randn(2, 4, 56, 56, device="cuda"), torch.randn(4, 111, 111, device="cuda") / 111
    expected = fft_conv(x, w, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fft_conv(x, w, backend="cuda")
    y.zero_()
    graph.replay()
    assert torch.equal(y, expected)
    compiled = torch.compile(lambda x, w: fft_conv(x, w, backend="cuda"), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, w), expected)


def test_a_larger_image_is_refused_with_the_size() -> None:
    x, w = torch.randn(1, 1, 600, 300, device="cuda"), torch.randn(1, 9, 9, device="cuda")
    assert "beyond 512" in explain("fft_conv", x, w).reason
    assert explain("fft_conv", x, w).backend == "torch"
    assert torch.equal(fft_conv(x, w), compute_in_torch(x, w[None], boundary=("zero", "zero"), causal=False, skip=None))
