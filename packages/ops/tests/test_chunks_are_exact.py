"""chunk_size changes no bit on a CPU: FFTs of few and of many channels, products, activations, one thread and more."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from subquad.ops import causal_conv_with_state, convention_names, fft_conv
from subquad.ops._blocks import block_sizes, fewest_channels
from subquad.ops._elementwise import activated, product, product_of_windows
from tools.testing.oracle import assert_close

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
CHANNELS = 7
CHUNKS = (1, 5)  # of 7 channels: 1 to 3 cut them into three pieces, 4 to 6 into two
# Space and taps: sizes that are odd, even, prime, less than a vector, with more taps than samples.
GRIDS = {
    1: (((1,), (1,)), ((15,), (4,)), ((100,), (7,)), ((257,), (300,))),
    2: (((1, 1), (1, 1)), ((7, 9), (7, 9)), ((16, 15), (3, 4)), ((33, 20), (5, 40)), ((56, 57), (7, 7))),
    3: (((2, 3, 4), (2, 2, 2)), ((4, 3, 5), (3, 3, 3)), ((9, 10, 11), (4, 5, 6))),
}
BOUNDARIES = {  # which only choose the length of each axis
    1: (("zero",), ("circular",)),
    2: (("zero", "zero"), ("circular", "circular"), ("circular", "zero")),
    3: (("zero", "zero", "zero"), ("circular", "circular", "circular"), ("zero", "circular", "zero")),
}
# Samples and taps of each form: direct, direct on an explicit pad, overlap-save (copied, and read where it lies), FFT.
STREAMS = ((1, 1), (1, 130), (3, 4), (101, 8), (99, 20), (1001, 65), (4096, 128), (5001, 128), (300, 300), (77, 200))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _assert_every_chunk_gives(run: Callable[[int | None], tuple[Tensor, ...]]) -> None:
    whole = run(None)
    for chunk_size in CHUNKS:
        for got, expected in zip(run(chunk_size), whole, strict=True):
            assert torch.equal(got, expected), (chunk_size, tuple(expected.shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rank", GRIDS)
def test_an_fft_convolution_in_chunks_has_the_same_bits(rank: int, dtype: torch.dtype, threads: int) -> None:
    for (space, taps), boundary in itertools.product(GRIDS[rank], BOUNDARIES[rank]):
        for batch, kernels in ((1, ()), (2, (2,))):
            x, w = torch.randn(batch, CHANNELS, *space).to(dtype), torch.randn(*kernels, CHANNELS, *taps).to(dtype)
            skip = torch.randn(CHANNELS).to(dtype) if kernels else None
            _assert_every_chunk_gives(
                lambda n, x=x, w=w, s=skip, b=boundary: (fft_conv(x, w, boundary=b, skip=s, chunk_size=n),)  # type: ignore[arg-type]
            )


@pytest.mark.parametrize(
    ("dtype", "activation"),
    [(torch.float32, None), (torch.float32, "silu"), (torch.float64, "gelu"), (torch.bfloat16, "silu")],
    ids=str,
)
@pytest.mark.parametrize(("length", "taps"), STREAMS)
def test_a_causal_convolution_in_chunks_has_the_same_bits(
    length: int, taps: int, dtype: torch.dtype, activation: str | None, threads: int
) -> None:
    x, w = torch.randn(1, CHANNELS, length).to(dtype), torch.randn(CHANNELS, taps).to(dtype)
    before = torch.randn(1, CHANNELS, taps - 1).to(dtype) if activation == "silu" else None
    bias = torch.randn(CHANNELS).to(dtype) if activation else None
    options = {"bias": bias, "skip": bias, "activation": activation, "initial_state": before}
    _assert_every_chunk_gives(lambda n: causal_conv_with_state(x, w, **options, chunk_size=n))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(n for n in convention_names.CONVENTION_NAMES if n.endswith("_chunked")))
def test_a_chunked_name_has_the_bits_of_the_name_without(name: str, threads: int) -> None:
    rank = int(name.split("fftconv")[1][0])
    space, taps = GRIDS[rank][1]
    last, kernel_last = "_blh" in name or "w_reshape" in name, "_blh" in name
    x, w = torch.randn(2, CHANNELS, *space), torch.randn(1, CHANNELS, *taps)
    inputs = [x.movedim(1, -1) if last else x, w.movedim(1, -1) if kernel_last else w]
    extra = ([True, *[False] * (rank - 1)],) if name.startswith("mixed") else ()
    phase = (True,) if name.startswith(("mixed", "circular")) else ()
    whole = getattr(convention_names, name.removesuffix("_chunked"))(*inputs, *extra)
    for chunk_size in CHUNKS:
        got = getattr(convention_names, name)(*inputs, *extra, None, *phase, chunk_size)
        assert torch.equal(got, whole), chunk_size


@pytest.mark.parametrize("operator", ["fft_conv", "causal_conv"])
def test_chunks_have_the_same_bits_where_a_gradient_is_recorded(operator: str, threads: int) -> None:
    x, w = torch.randn(2, CHANNELS, 1001).requires_grad_(), torch.randn(CHANNELS, 301).requires_grad_()

    def run(chunk_size: int | None) -> tuple[Tensor, ...]:
        if operator == "fft_conv":
            return (fft_conv(x, w, chunk_size=chunk_size),)
        return causal_conv_with_state(x, w, activation="silu", chunk_size=chunk_size)

    _assert_every_chunk_gives(run)


def test_blocks_in_the_cache_have_the_same_bits_in_chunks(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr("subquad.ops._blocks._SAMPLES", 4000)
    x, w, skip = torch.randn(1, CHANNELS, 1001), torch.randn(CHANNELS, 301), torch.randn(CHANNELS)
    _assert_every_chunk_gives(lambda n: (fft_conv(x, w, skip=skip, chunk_size=n),))
    _assert_every_chunk_gives(lambda n: causal_conv_with_state(x, w, activation="silu", chunk_size=n))


def test_long_transforms_on_many_threads_have_the_same_bits_in_chunks() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        x, w = torch.randn(1, CHANNELS, 20000), torch.randn(CHANNELS, 30)
        _assert_every_chunk_gives(lambda n: (fft_conv(x, w, chunk_size=n),))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("columns", [1, 7, 31, 32, 33, 50, 257, 40000])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_a_row_of_a_product_has_the_same_bits_in_any_company(columns: int, dtype: torch.dtype, threads: int) -> None:
    x, factor = torch.randn(2, 13, columns, dtype=dtype), torch.randn(1, 13, columns, dtype=dtype)
    whole = product(x.clone(), factor)
    assert_close(whole, x * factor, 1e-6)
    for rows in (1, 2, 3, 12):
        parts = [product(p.clone(), f) for p, f in zip(x.split(rows, 1), factor.split(rows, 1), strict=True)]
        assert torch.equal(torch.cat(parts, 1), whole)


def test_windows_share_a_factor_and_have_the_same_bits_in_any_company(threads: int) -> None:
    for windows, columns in ((5, 321), (7, 641), (3, 33000)):
        x = torch.randn(1, 13, windows, columns, dtype=torch.complex64)
        factor = torch.randn(1, 13, 1, columns, dtype=torch.complex64)
        whole = product_of_windows(x.clone(), factor)
        assert_close(whole, x * factor, 1e-6)
        for rows in (1, 2, 3, 12):
            pairs = zip(x.split(rows, 1), factor.split(rows, 1), strict=True)
            assert torch.equal(torch.cat([product_of_windows(p.clone(), f) for p, f in pairs], 1), whole)


def test_products_and_activations_have_derivatives_of_first_and_second_order() -> None:
    x, factor = torch.randn(2, 3, 35, dtype=torch.complex128), torch.randn(1, 3, 35, dtype=torch.complex128)
    leaves = [t.requires_grad_() for t in (x, factor)]
    assert torch.autograd.gradcheck(lambda x, f: product(x.clone(), f), leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, f: product(x.clone(), f), leaves, fast_mode=True)
    y = torch.randn(2, 3, 35, dtype=torch.float64, requires_grad=True)
    for activation in ("silu", "gelu"):
        assert torch.autograd.gradcheck(lambda y, a=activation: activated(y.clone(), a), y, fast_mode=True)  # type: ignore[arg-type]
        assert torch.autograd.gradgradcheck(lambda y, a=activation: activated(y.clone(), a), y, fast_mode=True)  # type: ignore[arg-type]


def test_an_activation_in_memory_with_gaps_leaves_the_gaps_alone() -> None:
    wide = torch.randn(2, 3, 40)
    kept = wide.clone()
    assert_close(activated(wide[..., :35], "silu"), torch.nn.functional.silu(kept[..., :35]), 1e-6)
    assert torch.equal(wide, kept)


def test_no_block_is_left_with_too_few_channels() -> None:
    for channels, most, fewest in itertools.product(range(1, 40), range(1, 12), (1, 2, 5)):
        sizes = block_sizes(channels, most, fewest)
        assert sum(sizes) == channels
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= fewest or len(sizes) == 1
        assert max(sizes) <= max(most, 2 * fewest - 1)


def test_more_threads_want_more_long_transforms_at_once(threads: int) -> None:
    x = torch.zeros(1, 2, 3)
    assert fewest_channels(x, 1000) == 2
    assert fewest_channels(x, 20000) == 2
    assert fewest_channels(x.to("meta"), 20000) == 1
