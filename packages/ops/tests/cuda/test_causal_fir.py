"""The CUDA kernel of the short causal convolution against its definition in float64. Needs a GPU and the library."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from subquad.ops._cuda_library import CudaLibrary, load_cuda_library
from subquad.ops.causal_conv.reference import causal_conv_reference
from tools.testing.oracle import assert_matches_oracle

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LENGTHS = [1, 2, 3, 7, 8, 9, 31, 63, 64, 100, 1000, 1023, 8192, 8193]


@pytest.fixture(scope="module")
def library() -> CudaLibrary:
    return load_cuda_library()


def noise(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).cuda()


def definition(activation: Literal["silu"] | None = None) -> Callable[..., Tensor]:
    def run(x: Tensor, taps: Tensor, bias: Tensor, skip: Tensor, state: Tensor) -> Tensor:
        y = causal_conv_reference(x, taps, state) + skip[:, None] * x + bias[:, None]
        return torch.nn.functional.silu(y) if activation == "silu" else y

    return run


def kernel(library: CudaLibrary, activation: Literal["silu"] | None = None) -> Callable[..., Tensor]:
    def run(x: Tensor, taps: Tensor, bias: Tensor, skip: Tensor, state: Tensor) -> Tensor:
        return library.causal_fir(x, taps, bias=bias, skip=skip, initial_state=state, activation=activation)

    return run


def inputs(batch: int, channel: int, length: int, group: int, tap: int, dtype: torch.dtype) -> list[Tensor]:
    shapes = [(batch, channel, length), (group, tap), (channel,), (channel,), (batch, channel, tap - 1)]
    return [noise(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tap", range(2, 9))
def test_every_length_matches_the_definition(library: CudaLibrary, tap: int, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        arrays = inputs(2, 6, length, 6, tap, dtype)
        assert_matches_oracle(kernel(library), definition(), *arrays, gradients=False, channel_dim=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grouped_taps_and_silu_match_the_definition(library: CudaLibrary, dtype: torch.dtype) -> None:
    for group in (1, 2, 3, 6):
        arrays = inputs(3, 6, 257, group, 7, dtype)
        assert_matches_oracle(kernel(library, "silu"), definition("silu"), *arrays, gradients=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_optional_arrays_default_to_nothing(library: CudaLibrary, dtype: torch.dtype) -> None:
    x, taps = inputs(2, 5, 129, 5, 4, dtype)[:2]
    assert_matches_oracle(library.causal_fir, causal_conv_reference, x, taps, gradients=False)


def test_float32_parameters_serve_a_bfloat16_sequence(library: CudaLibrary) -> None:
    x, taps = noise(2, 4, 65, dtype=torch.bfloat16, seed=0), noise(4, 3, dtype=torch.float32, seed=1)
    bias = noise(4, dtype=torch.bfloat16, seed=2)

    def candidate(x: Tensor) -> Tensor:
        return library.causal_fir(x, taps, bias=bias)

    def reference(x: Tensor) -> Tensor:
        return causal_conv_reference(x, taps.to(x.dtype)) + bias.to(x.dtype)[:, None]

    assert_matches_oracle(candidate, reference, x, gradients=False)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_a_sequence_that_starts_between_16_byte_boundaries_is_served(library: CudaLibrary, offset: int) -> None:
    taps = noise(3, 5, dtype=torch.bfloat16, seed=1)
    x = noise(2 * 3 * 77 + offset, dtype=torch.bfloat16, seed=0)[offset:].view(2, 3, 77)
    assert_matches_oracle(library.causal_fir, causal_conv_reference, x, taps, gradients=False)


def test_many_short_rows_and_one_long_row_match_the_definition(library: CudaLibrary) -> None:
    for shape in ((512, 300, 5), (1, 1, 3_000_001)):
        x, taps = noise(*shape, dtype=torch.float32, seed=0), noise(shape[1], 8, dtype=torch.float32, seed=1)
        assert_matches_oracle(library.causal_fir, causal_conv_reference, x, taps, gradients=False)


def test_two_chunks_with_the_state_between_them_equal_one_call(library: CudaLibrary) -> None:
    x, taps = noise(2, 3, 100, dtype=torch.bfloat16, seed=0), noise(3, 7, dtype=torch.bfloat16, seed=1)
    first = library.causal_fir(x[..., :37], taps)
    second = library.causal_fir(x[..., 37:], taps, initial_state=x[..., 31:37])
    assert torch.equal(torch.cat([first, second], dim=-1), library.causal_fir(x, taps))


def test_a_transposed_view_gives_the_same_result(library: CudaLibrary) -> None:
    x, taps = noise(2, 50, 3, dtype=torch.float32, seed=0).transpose(1, 2), noise(3, 4, dtype=torch.float32, seed=1)
    assert torch.equal(library.causal_fir(x, taps), library.causal_fir(x.contiguous(), taps))


def test_an_empty_batch_and_an_empty_sequence_are_served(library: CudaLibrary) -> None:
    taps = noise(3, 4, dtype=torch.float32, seed=1)
    for shape in ((0, 3, 10), (2, 3, 0)):
        assert library.causal_fir(torch.empty(shape, device="cuda"), taps).shape == shape


def test_the_kernel_runs_on_the_current_stream_and_in_a_graph(library: CudaLibrary) -> None:
    x, taps = noise(2, 3, 100, dtype=torch.float32, seed=0), noise(3, 7, dtype=torch.float32, seed=1)
    expected = library.causal_fir(x, taps)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = library.causal_fir(x, taps)
    captured.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
