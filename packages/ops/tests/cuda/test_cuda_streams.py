"""How calls of the CUDA library's marching kernels are put together, on any machine."""

import ctypes
from dataclasses import replace

import pytest
import torch

from subquad.ops import _cuda_streams as streams
from subquad.ops._cuda_backend import _causal_refusal, _filter_refusal, _modal_refusal
from subquad.ops._cuda_interface import StreamArguments
from subquad.ops.dispatch import Call

CALL = Call("gated_conv", torch.bfloat16, "cuda", batch=1, channels=4, length=100, taps=128, projection_taps=3)


def test_the_structure_has_the_size_that_a_c_compiler_gives_it() -> None:
    assert ctypes.sizeof(StreamArguments) == 6 * 8 + 5 * 8 + 8 * 4


def test_many_rows_are_not_cut_and_few_long_ones_are() -> None:
    assert streams._modal_tiles(rows=1920, tiles=512) == 0
    assert streams._modal_tiles(rows=1, tiles=10) == 0
    assert streams._modal_tiles(rows=256, tiles=32) == 7
    assert streams._modal_tiles(rows=1, tiles=4096) == 7


def test_a_row_is_contiguous_along_time_or_copied() -> None:
    x = torch.randn(2, 50, 3).transpose(1, 2)
    assert streams.time_contiguous(x).stride(-1) == 1
    every_other = x.contiguous()[:, ::2]
    assert streams.time_contiguous(every_other) is every_other


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"device": "cpu"}, "the tensors are on cpu; accepted: cuda"),
        ({"dtype": torch.float64}, "dtype float64; accepted: float32, bfloat16"),
        ({"taps": 1}, "1 taps; accepted: 2 to 129"),
        ({"taps": 130}, "130 taps; accepted: 2 to 129"),
        ({"projection_taps": 4}, "4 projection taps; accepted: 1 to 3"),
        ({"length": 0}, "the call is empty"),
        ({"channels": 70000}, "70000 channels; accepted: up to 65535"),
    ],
)
def test_a_call_that_no_kernel_takes_is_refused(changes: dict, text: str) -> None:
    refusal = _filter_refusal(replace(CALL, **changes))
    assert refusal is not None
    assert text in refusal


def test_a_call_that_a_kernel_takes_is_not_refused() -> None:
    assert _filter_refusal(CALL) is None
    assert _modal_refusal(replace(CALL, taps=16)) is None
    assert _modal_refusal(replace(CALL, taps=17)) is not None


def test_few_taps_take_float16_too() -> None:
    short = replace(CALL, dtype=torch.float16, taps=7, projection_taps=0)
    assert _causal_refusal(short) is None
    assert _filter_refusal(short) is not None
