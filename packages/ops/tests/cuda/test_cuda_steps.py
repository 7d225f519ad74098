"""Which decode steps the CUDA library's kernels take; needs neither a GPU nor the library."""

from dataclasses import replace

import pytest
import torch

from subquad.ops import _capability
from subquad.ops._cuda_backend import implementations
from subquad.ops.attention_step.attention_step import GAPS, UNEVEN_PAGES
from subquad.ops.attention_step.attention_step import describe as describe_attention
from subquad.ops.dispatch import Call
from subquad.ops.linear_step.linear_step import OTHER_DTYPE, describe

LINEAR = Call("linear_step", torch.bfloat16, "cuda", batch=1, channels=24, length=1, taps=64, inputs=64)
STEP = replace(
    LINEAR, operator="gated_conv_step", channels=8, taps=7, projection_taps=3, options=frozenset({"projection"})
)
ATTENTION = Call("attention_step", torch.bfloat16, "cuda", batch=3, channels=15 * 128, length=1, taps=128)
MODAL = replace(STEP, operator="gated_modal_step", taps=16)


@pytest.fixture(autouse=True)
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of compute capability 9.0, as far as refusals ask."""
    monkeypatch.setattr(_capability, "_capability", lambda index: (9, 0))


def refusal(call: Call) -> str | None:
    return next(offer.refusal(call) for offer in implementations() if offer.operator == call.operator)


@pytest.mark.parametrize("call", [LINEAR, replace(LINEAR, operator="gated_linear_step"), STEP, MODAL, ATTENTION])
def test_a_step_of_bfloat16_is_taken(call: Call) -> None:
    assert refusal(call) is None


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (replace(LINEAR, batch=65), "65 vectors of bfloat16; accepted: up to 64"),
        (replace(LINEAR, batch=33, inputs=8256), "8256 inputs; accepted: multiples of 8 up to 8192"),
        (replace(LINEAR, batch=9, inputs=20_480), "up to 19456"),
        (replace(STEP, batch=2), "2 vectors; accepted: one"),
        (replace(LINEAR, dtype=torch.float32), "1 vectors of float32"),
        (replace(LINEAR, inputs=60), "60 inputs; accepted: multiples of 8 up to 24576"),
        (replace(LINEAR, inputs=72, options=frozenset({"rounded weight"})), "accepted: multiples of 16"),
        (replace(LINEAR, inputs=8200, options=frozenset({"norm"})), "up to 8192"),
        (replace(LINEAR, options=frozenset({OTHER_DTYPE})), "another dtype"),
        (replace(LINEAR, device="cpu"), "on cpu"),
        (replace(STEP, options=frozenset()), "projected already"),
        (replace(STEP, taps=130), "accepted: 2 to 129"),
        (replace(STEP, projection_taps=9), "2 to 8"),
        (replace(MODAL, taps=33), "accepted: 1 to 32"),
        (replace(ATTENTION, taps=96), "heads of 96; accepted: 64 or 128"),
        (replace(ATTENTION, dtype=torch.float16), "accepted: bfloat16"),
        (replace(ATTENTION, options=frozenset({OTHER_DTYPE})), "accepted: bfloat16"),
        (replace(ATTENTION, options=frozenset({GAPS})), "accepted: contiguous"),
        (replace(ATTENTION, options=frozenset({UNEVEN_PAGES})), "multiple of 32"),
    ],
)
def test_what_no_kernel_takes_is_refused_with_what_is_accepted(call: Call, word: str) -> None:
    assert word in (refusal(call) or "")


@pytest.mark.parametrize("operator", ["linear_step", "gated_linear_step"])
def test_several_vectors_are_left_to_the_next_unless_weights_have_one_byte(operator: str) -> None:
    call = replace(LINEAR, operator=operator, batch=9)
    offer = next(offer for offer in implementations() if offer.operator == operator)
    assert offer.refusal(call) is None
    assert offer.unmeasured is not None
    assert "the next was faster" in (offer.unmeasured(call) or "")
    for taken in (replace(call, batch=8), replace(call, options=frozenset({"rounded weight"}))):
        assert offer.unmeasured(taken) is None


@pytest.mark.parametrize("call", [LINEAR, ATTENTION])
def test_an_older_gpu_is_refused(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capability, "_capability", lambda index: (8, 0))
    assert "accepted: compute capability 9.0" in (refusal(call) or "")


def test_a_call_tells_of_pages_and_pools_that_no_kernel_takes() -> None:
    def options(page: int, pool: torch.Tensor, dtype: torch.dtype = torch.float32) -> frozenset[str]:
        qkv, pages = torch.ones(1, 2, 3, 8, dtype=dtype), torch.zeros(1, 2, dtype=torch.int64)
        return describe_attention(qkv, pool, pool, pages, pages[:, 0], torch.ones(4), page_size=page).options

    pool = torch.ones(64, 2, 8)
    assert options(32, pool) == frozenset()
    assert options(24, pool) == {UNEVEN_PAGES}
    assert options(32, pool.transpose(0, 1).contiguous().transpose(0, 1)) == {GAPS}
    assert options(32, pool, torch.bfloat16) == {OTHER_DTYPE}


def test_a_call_tells_of_a_residual_in_another_dtype() -> None:
    x, weight = torch.ones(1, 16), torch.ones(8, 16)
    assert OTHER_DTYPE in describe(x, weight, residual=torch.ones(1, 8, dtype=torch.float64)).options
    assert OTHER_DTYPE not in describe(x, weight, residual=torch.ones(1, 8)).options
