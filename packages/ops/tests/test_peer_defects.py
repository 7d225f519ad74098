"""What goes wrong in nvSubquadratic 0.1.1 and 0.2.0, done right here; through its documented names where it has one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from packages.ops.tests.memory import peak_bytes
from subquad.ops import ShapeMismatch, causal_conv, convention_names, fft_conv
from subquad.ops.causal_conv.reference import causal_conv_reference
from subquad.ops.fft_conv.reference import fft_conv_reference
from subquad.ops.fft_sizes import is_smooth
from tools.testing.oracle import assert_as_exact_as, assert_close

CAUSAL = [name for name in sorted(convention_names.CONVENTION_NAMES) if name.startswith("causal")]
SPACES = {1: (12,), 2: (7, 8), 3: (4, 5, 6)}


def _call(name: str, x: Tensor, w: Tensor, *rest: object) -> Tensor:
    """Calls a documented name with channel-first tensors, whatever its own layout."""
    last = "_blh" in name or "w_reshape" in name
    kernel = w.movedim(0, -1) if "_blh" in name else w
    y = getattr(convention_names, name)(x.movedim(1, -1) if last else x, kernel, *rest)
    return y.movedim(-1, 1) if last else y


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_filter_longer_than_the_sequence_neither_wraps_round_nor_sees_the_future(name: str) -> None:
    for taps in range(1, 17):
        x, w = torch.randn(2, 3, 8), torch.randn(3, taps)
        y = _call(name, x, w)
        assert_close(y, causal_conv_reference(x.double(), w.double()).float(), 1e-5)
        other = x.clone()
        other[..., -1] += 1.0
        assert float((_call(name, other, w) - y)[..., :-1].abs().max()) < 1e-5


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("taps", range(2, 10))
def test_the_centre_of_an_even_filter_is_the_same_tap_under_every_boundary(rank: int, taps: int) -> None:
    x = torch.randn(1, 2, *SPACES[rank])
    w = torch.zeros(2, *[taps] * rank)
    w[(slice(None), *[taps // 2] * rank)] = 1.0
    for start, rest in (("", ()), ("circular_", ()), ("mixed_", ([axis % 2 == 0 for axis in range(rank)],))):
        assert_close(_call(f"{start}fftconv{rank}d_fp32_bhl", x, w, *rest), x, 1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_one_filter_for_many_channels_is_refused_instead_of_spread_silently(
    rank: int, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("unchecked")
    x, w = torch.randn(2, 3, *SPACES[rank]), torch.randn(1, *[3] * rank)
    for start in ("", "circular_") + (("causal_",) if rank == 1 else ()):
        with pytest.raises(ShapeMismatch, match="taps has 1 channels, x has 3; they must agree"):
            _call(f"{start}fftconv{rank}d_fp32_bhl", x, w)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_mixed_boundaries_that_are_all_alike_equal_the_plain_ones_to_the_bit(rank: int) -> None:
    x, w = torch.randn(2, 3, *SPACES[rank]), torch.randn(3, *[4] * rank)
    for periodic, start in ((False, ""), (True, "circular_")):
        mixed = _call(f"mixed_fftconv{rank}d_fp32_bhl", x, w, [periodic] * rank)
        assert torch.equal(mixed, _call(f"{start}fftconv{rank}d_fp32_bhl", x, w))


def test_float64_streams_are_not_rounded_to_float32_on_the_way() -> None:
    x, w = torch.randn(2, 3, 40).double(), torch.randn(3, 9).double()
    assert_close(fft_conv(x, w), fft_conv_reference(x, w, ("zero",)), 1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_shortcut_is_added_before_the_result_is_rounded(dtype: torch.dtype) -> None:
    x, w, s = torch.randn(2, 3, 400).to(dtype), torch.randn(3, 9).to(dtype), torch.randn(3).to(dtype)
    exact = fft_conv_reference(x.double(), w.double(), ("zero",)) + s.double()[:, None] * x.double()
    got = fft_conv(x, w, skip=s)
    assert_as_exact_as("with the shortcut", exact, exact.to(dtype), got)
    assert_close(got.double(), exact, 5e-3)


def test_every_sample_can_have_its_own_causal_filter() -> None:
    x, w = torch.randn(3, 2, 11), torch.randn(3, 2, 15)
    expected = torch.cat([causal_conv(x[i : i + 1], w[i]) for i in range(3)])
    assert_close(fft_conv(x, w, causal=True), expected, 1e-5)
    assert_close(convention_names.causal_fftconv1d_fp32_bhl(x, w), expected, 1e-5)


def test_chunks_of_channels_are_recomputed_so_that_the_peak_really_falls() -> None:
    x, w = torch.randn(1, 16, 1024, requires_grad=True), torch.randn(16, 1024, requires_grad=True)

    def train(chunk: int | None) -> Callable[[], object]:
        return lambda: torch.autograd.grad(fft_conv(x, w, causal=True, chunk_size=chunk).sum(), (x, w))

    assert peak_bytes(train(1)) < 0.6 * peak_bytes(train(None))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_circular_filter_equals_a_convolution_of_the_padded_grid(rank: int) -> None:
    x, w = torch.randn(2, 3, *SPACES[rank]).double(), torch.randn(3, *[3] * rank).double()
    padded = functional.pad(x, (1, 1) * rank, mode="circular")
    expected = getattr(functional, f"conv{rank}d")(padded, w.flip(tuple(range(1, rank + 1)))[:, None], groups=3)
    assert_close(fft_conv(x, w, boundary="circular"), expected, 1e-12)


@pytest.mark.parametrize("length", [7, 8191, 8209, 10007])
def test_a_prime_length_is_transformed_at_a_smooth_one(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = torch.fft.rfftn

    def note(x: Tensor, s: list[int], dim: tuple[int, ...]) -> Tensor:
        sizes.extend(s)
        return real(x, s=s, dim=dim)

    monkeypatch.setattr(torch.fft, "rfftn", note)
    fft_conv(torch.randn(1, 1, length), torch.randn(1, length), causal=True)
    assert sizes
    assert all(is_smooth(size) for size in sizes)
