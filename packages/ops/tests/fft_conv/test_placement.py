"""Placing an image and its filter in a square transform turns every boundary into one circular convolution."""

import itertools

import pytest
import torch
from torch import Tensor

from subquad.ops.fft_conv.placement import SIZES, Axis, place
from subquad.ops.fft_conv.reference import fft_conv_reference
from subquad.ops.fft_conv.spectral import reaching_taps
from tools.testing.oracle import assert_close

BOUNDARIES = tuple(itertools.product(("zero", "circular"), repeat=2))


def _sample(axis: Axis, place_: int) -> int:
    """What ImageAxis::sample of packages/ops/csrc/image_fft.cuh does."""
    sample = place_ - axis.shift
    sample += axis.period * ((sample < 0) - (sample >= axis.size))
    return sample if place_ < axis.extent and 0 <= sample < axis.size else -1


def _laid_out(image: Tensor, transform: int, height: Axis, width: Axis) -> Tensor:
    """Returns the transform's square of samples."""
    bordered = torch.nn.functional.pad(image, (0, 1, 0, 1))  # index -1 is a zero
    rows, columns = ([_sample(axis, t) for t in range(transform)] for axis in (height, width))
    return bordered[..., rows, :][..., columns]


def _taken(square: Tensor, height: Axis, width: Axis) -> Tensor:
    return square[..., height.shift : height.shift + height.size, width.shift : width.shift + width.size]


@pytest.mark.parametrize("boundary", BOUNDARIES, ids="-".join)
@pytest.mark.parametrize("space", [(1, 1), (1, 7), (5, 6), (16, 9), (16, 16), (13, 28)], ids=str)
def test_the_circular_product_is_the_convolution_and_its_gradients(
    space: tuple[int, int], boundary: tuple[str, str]
) -> None:
    for taps in ((1, 1), (2, 3), (4, 7), (2 * space[0] - 1, 2 * space[1]), (3 * space[0], 5)):
        x = torch.randn(1, 2, *space, dtype=torch.float64, requires_grad=True)
        w = torch.randn(1, 2, *taps, dtype=torch.float64, requires_grad=True)
        y, upstream = fft_conv_reference(x, w, boundary), torch.randn(1, 2, *space, dtype=torch.float64)
        to_x, to_w = torch.autograd.grad(y, (x, w), upstream)
        reaching, centres = reaching_taps(space, w, boundary, causal=False)
        size, (height, width) = place(space, reaching.shape[2:], centres, boundary)
        axes, back = ([a.samples(backward=backward) for a in (height, width)] for backward in (False, True))
        assert all(a.results(backward=True).shift == b.shift for a, b in zip((height, width), back, strict=True))
        spectrum = torch.fft.fft2(_laid_out(reaching.detach(), size, height.filter(size), width.filter(size)))
        samples = torch.fft.fft2(_laid_out(x.detach(), size, *axes))
        assert_close(_taken(torch.fft.ifft2(samples * spectrum).real, *axes), y.detach(), 1e-12)
        turned = torch.fft.fft2(_laid_out(upstream, size, *back)) * spectrum.conj()
        assert_close(_taken(torch.fft.ifft2(turned).real, *back), to_x, 1e-12)
        results = torch.fft.fft2(_laid_out(upstream, size, height.results(), width.results()))
        lags = torch.fft.ifft2(samples.conj() * results).real.roll((height.centre, width.centre), dims=(2, 3))
        (found,) = torch.autograd.grad(reaching, w, lags[..., : height.taps, : width.taps])
        assert_close(found, to_w, 1e-11)


def test_no_transform_is_shorter_than_what_it_holds() -> None:
    for side, taps in itertools.product((1, 14, 56, 100, 112, 224, 300, 500), (1, 7, 111, 223)):
        size, placements = place((side, side), (taps, taps), (taps // 2, taps // 2), ("zero", "zero"))
        needed = side + taps // 2
        assert size == next((s for s in SIZES if s >= needed), 0)
        assert bool(placements) == (size > 0)


def test_a_circle_as_long_as_the_transform_is_not_continued() -> None:
    size, (height, _) = place((28, 14), (28, 3), (14, 1), ("circular", "zero"))
    assert size == 28
    assert not height.wraps
    assert place((27, 14), (27, 3), (13, 1), ("circular", "zero"))[0] == 56
