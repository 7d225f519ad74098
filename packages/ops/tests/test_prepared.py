"""Decode steps that are checked once give bit for bit what each call gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad import ops
from subquad.ops import ArgumentOutOfRange, BackendUnavailable, RoundedWeight, ShapeMismatch, StepNorm, StepProjection
from subquad.ops.dispatch import OPERATORS
from subquad.ops.prepared import STEPS, prepare

CHANNELS, GROUPS, HEADS, SIZE, PAGE = 12, 4, 2, 6, 4
ACTIVE = [[True, True, True], [True, False, True], [False, False, False], [False, True, False]]


def norm() -> StepNorm:
    return StepNorm(torch.rand(CHANNELS) + 0.5, 1e-6, "vortex")


def projection() -> StepProjection:
    return StepProjection(torch.randn(3 * CHANNELS, CHANNELS), norm())


def rounded() -> RoundedWeight:
    weight = torch.randn(5, CHANNELS)
    scale = ops.row_scales(weight)
    return RoundedWeight(ops.round_to_e4m3(weight, scale), scale[:, 0].contiguous())


Made = tuple[Tensor, list[Any], dict[str, Any]]  # the first tensor, the others, and the keyword arguments


def linear(rows: int, position: Tensor, active: Tensor) -> Made:
    options = {"norm": norm(), "bias": torch.randn(5), "residual": torch.randn(rows, 5)}
    return torch.randn(rows, CHANNELS), [torch.randn(5, CHANNELS)], options


def linear_rounded(rows: int, position: Tensor, active: Tensor) -> Made:
    return torch.randn(rows, CHANNELS), [rounded()], {}


def gated_linear(rows: int, position: Tensor, active: Tensor) -> Made:
    weights = [torch.randn(5, CHANNELS), torch.randn(5, CHANNELS)]
    return torch.randn(rows, CHANNELS), weights, {"norm": norm(), "activation": "gelu"}


def fir(taps: int, groups: int) -> Callable[[int, Tensor, Tensor], Made]:
    def make(rows: int, position: Tensor, active: Tensor) -> Made:
        others = [torch.randn(groups, taps), torch.randn(rows, CHANNELS, taps - 1), position]
        return torch.randn(rows, CHANNELS), others, {"skip": torch.randn(CHANNELS), "active": active}

    return make


def modal(rows: int, position: Tensor, active: Tensor) -> Made:
    others = [-torch.rand(CHANNELS, 3), torch.randn(CHANNELS, 3), torch.randn(rows, CHANNELS, 3)]
    return torch.randn(rows, CHANNELS), others, {"active": active}


def gated_conv(rows: int, position: Tensor, active: Tensor) -> Made:
    rings = [torch.randn(rows, 3 * CHANNELS, 2), torch.randn(rows, CHANNELS, 8)]
    others = [torch.randn(3 * CHANNELS, 3), torch.randn(GROUPS, 9), *rings, position]
    return torch.randn(rows, CHANNELS), others, {"projection": projection(), "active": active}


def gated_modal(rows: int, position: Tensor, active: Tensor) -> Made:
    filters = [torch.randn(3 * CHANNELS, 3), -torch.rand(CHANNELS, 3), torch.randn(CHANNELS, 3)]
    others = [*filters, torch.randn(rows, 3 * CHANNELS, 2), torch.randn(rows, CHANNELS, 3), position]
    return torch.randn(rows, 3 * CHANNELS), others, {"skip": torch.randn(CHANNELS), "active": active}


def attention(rows: int, position: Tensor, active: Tensor) -> Made:
    pools = [torch.randn(3 * rows * PAGE, HEADS, SIZE) for _ in range(2)]
    pages = torch.randperm(3 * rows, dtype=torch.int32).view(rows, 3)
    others = [*pools, pages, position, torch.rand(SIZE // 2)]
    return torch.randn(rows, HEADS, 3, SIZE), others, {"page_size": PAGE, "position_scale": 2.0, "active": active}


def greedy(rows: int, position: Tensor, active: Tensor) -> Made:
    return torch.randn(rows, 9), [torch.zeros(rows, dtype=torch.int64)], {"active": active}


CASES = {
    "linear_step": linear,
    "linear_step, one byte": linear_rounded,
    "gated_linear_step": gated_linear,
    "fir_step, one tap": fir(1, CHANNELS),
    "fir_step, few taps": fir(3, CHANNELS),
    "fir_step, many taps": fir(9, CHANNELS),
    "fir_step, groups": fir(9, GROUPS),
    "modal_step": modal,
    "gated_conv_step": gated_conv,
    "gated_modal_step": gated_modal,
    "attention_step": attention,
    "greedy_step": greedy,
}


def copied(value: Any, shared: Tensor) -> Any:
    return value.clone() if isinstance(value, Tensor) and value is not shared else value


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_prepared_step_gives_the_bits_of_a_call_at_every_position_and_for_any_active_rows(
    name: str, rows: int
) -> None:
    op_name = name.split(",")[0]
    position, active = torch.tensor([0, 5, 3][:rows]), torch.ones(rows, dtype=torch.bool)
    first, others, options = CASES[name](rows, position, active)
    ours, theirs = ([copied(value, position) for value in others] for _ in range(2))
    step = prepare(op_name, first, *ours, **options)
    for pattern in ACTIVE:
        active.copy_(torch.tensor(pattern[:rows]))
        first = torch.randn_like(first)
        changed = {"residual": torch.randn_like(options["residual"])} if "residual" in options else {}
        expected = getattr(ops, op_name)(first, *theirs, **{**options, **changed})
        got = step(first, **changed)
        assert torch.equal(got[active], expected[active])
        for mine, other in zip(ours, theirs, strict=True):
            assert not isinstance(mine, Tensor) or torch.equal(mine.view(torch.uint8), other.view(torch.uint8))
        position += active


@pytest.mark.parametrize("name", [name for name in CASES if "linear" not in name and "greedy" not in name])
@torch.no_grad()
def test_rows_that_are_not_active_are_zero_and_their_numbers_reach_no_other(name: str) -> None:
    op_name = name.split(",")[0]
    position, active = torch.tensor([0, 5, 3]), torch.tensor([True, False, True])
    first, others, options = CASES[name](3, position, active)
    expected = prepare(op_name, first, *[copied(value, position) for value in others], **options)(first)
    first[1] = torch.nan
    got = prepare(op_name, first, *others, **options)(first)
    assert torch.equal(got, expected)
    assert not got[1].any()


def test_every_step_can_be_prepared() -> None:
    assert set(STEPS) == {name for name in OPERATORS if name.endswith("_step")} == {n.split(",")[0] for n in CASES}


def test_what_does_not_fit_is_refused_when_it_is_prepared() -> None:
    x, weight = torch.randn(2, 4), torch.randn(3, 5)
    with pytest.raises(ShapeMismatch, match=r"weight is torch.float32 \(3, 5\)"):
        prepare("linear_step", x, weight)
    with pytest.raises(BackendUnavailable, match="linear_step"):
        prepare("linear_step", x, weight[:, :4], backend="vendor")
    with pytest.raises(ArgumentOutOfRange, match="op_name is 'gated_conv'"):
        prepare("gated_conv", x, weight)
