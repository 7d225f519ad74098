"""Every documented name computes what the one operator computes."""

import pytest
import torch

from subquad.ops import ArgumentOutOfRange, ShapeMismatch, convention_names, fft_conv
from tools.testing.oracle import assert_close

SPACES = {1: (11,), 2: (6, 7), 3: (4, 5, 3)}


@pytest.mark.parametrize("kernels", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(convention_names.CONVENTION_NAMES))
def test_the_alias_equals_the_operator(name: str, kernels: int) -> None:
    rank = int(name.split("fftconv")[1][0])
    x, w = torch.randn(2, 3, *SPACES[rank]).double(), torch.randn(3, *[4] * rank).double()
    if kernels:
        w = torch.randn(kernels, *w.shape).double()
    shortcut = torch.randn(3).double()
    periodic = tuple(axis % 2 == 0 for axis in range(rank))
    boundary = ("circular" if name.startswith("circular") else "zero",) * rank
    extra: tuple[object, ...] = ()
    if name.startswith("mixed"):
        boundary, extra = tuple("circular" if wraps else "zero" for wraps in periodic), (periodic,)
    expected = fft_conv(x, w, boundary=boundary, causal=name.startswith("causal"), skip=shortcut)  # type: ignore[arg-type]
    last = "_blh" in name or "w_reshape" in name
    kernel = w.movedim(-rank - 1, -1) if "_blh" in name else w
    y = getattr(convention_names, name)(x.movedim(1, -1) if last else x, kernel, *extra, shortcut)
    assert_close(y.movedim(-1, 1) if last else y, expected, 1e-12)


@pytest.mark.parametrize("name", sorted(convention_names.CONVENTION_NAMES))
def test_a_name_says_what_it_computes_and_on_which_layout(name: str) -> None:
    function = getattr(convention_names, name)
    assert function.__name__ == name
    kind = name.split("_")[0].capitalize() if not name.startswith("fftconv") else "Zero-padded"
    assert function.__doc__.startswith(f"{kind} convolution of x ``[batch, ")
    last = "_blh" in name or "w_reshape" in name
    assert (", channel]`` with kernel" in function.__doc__) == last
    assert ("with kernel ``[tap" in function.__doc__) == ("_blh" in name)
    assert ("tap 0 meets the current sample" in function.__doc__) == name.startswith("causal")
    assert ("periodic" in function.__doc__) == name.startswith("mixed")


def test_the_names_are_those_of_the_convention() -> None:
    kinds = [(prefix, rank) for prefix in ("", "circular_", "mixed_") for rank in (1, 2, 3)] + [("causal_", 1)]
    layouts, ends = ("bhl", "blh", "bhl_w_reshape"), ("", "_chunked")
    expected = {
        f"{prefix}fftconv{rank}d_fp32_{layout}{end}" for prefix, rank in kinds for layout in layouts for end in ends
    }
    assert expected == set(convention_names.CONVENTION_NAMES)


def test_the_documented_example_name_exists_and_others_are_refused() -> None:
    assert "causal_fftconv1d_fp32_bhl_w_reshape" in dir(convention_names)
    with pytest.raises(AttributeError, match="has no 'fftconv4d_fp32_bhl'"):
        convention_names.fftconv4d_fp32_bhl  # noqa: B018


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", sorted(convention_names.CONVENTION_NAMES))
def test_a_grid_of_another_rank_is_refused(name: str) -> None:
    rank = int(name.split("fftconv")[1][0])
    extra = ([True] * rank,) if name.startswith("mixed") else ()
    axes = [3] * (rank + 3)
    with pytest.raises(ShapeMismatch, match=f"x has {rank + 3} axes .* fftconv{rank}d takes {rank + 2}"):
        getattr(convention_names, name)(torch.randn(axes), torch.randn(axes[1:]), *extra)


@pytest.mark.usefixtures("unchecked")
def test_chunks_of_no_channels_are_refused() -> None:
    with pytest.raises(ArgumentOutOfRange, match="chunk_size is 0; accepted: 1 or more"):
        convention_names.fftconv1d_fp32_bhl_chunked(torch.randn(2, 3, 11), torch.randn(3, 4), None, 0)


def test_the_documented_arguments_can_be_given_in_the_documented_order() -> None:
    x, w, s = torch.randn(2, 3, 11), torch.randn(3, 4), torch.randn(3)
    chunked = convention_names.fftconv1d_fp32_bhl_chunked(x, w, s, 2)
    assert_close(chunked, fft_conv(x, w, skip=s), 1e-6)
    turned = convention_names.circular_fftconv1d_fp32_bhl(x, w, s, False)
    assert torch.equal(turned, fft_conv(x, w, skip=s, boundary="circular"))
    mixed = convention_names.mixed_fftconv1d_fp32_bhl_chunked(x, w, (True,), s, True, 1)
    assert_close(mixed, turned, 1e-6)
