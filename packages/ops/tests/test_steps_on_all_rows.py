"""The torch form of decode steps that never asks the host: what a GPU, a compiled graph and 16-bit filters take."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subquad import ops
from subquad.ops.causal_conv.reference import causal_conv_reference
from subquad.ops.gated_conv.reference import gated_conv_reference
from subquad.ops.gated_modal_conv.reference import gated_modal_conv_reference
from subquad.ops.modal_conv.reference import modal_conv_reference
from tools.testing.oracle import assert_as_exact_as, assert_close

ROWS, CHANNELS, STATES = 3, 6, 4
POSITION = torch.tensor([0, 5, 11])


def _modes() -> tuple[Tensor, Tensor]:
    return -torch.rand(CHANNELS, STATES).double(), torch.randn(CHANNELS, STATES).double()


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


# An operator's own inputs, and where among them what it changes in place stands.
CASES: dict[str, tuple[Callable[[], tuple[Tensor, ...]], tuple[int, ...]]] = {
    "fir_step": (lambda: (_random(ROWS, CHANNELS), _random(3, 7), _random(ROWS, CHANNELS, 6), POSITION), (2,)),
    "modal_step": (lambda: (_random(ROWS, CHANNELS), *_modes(), _random(ROWS, CHANNELS, STATES)), (3,)),
    "gated_conv_step": (
        lambda: (
            *(_random(ROWS, 3 * CHANNELS), _random(3 * CHANNELS, 3), _random(2, 7)),
            *(_random(ROWS, 3 * CHANNELS, 2), _random(ROWS, CHANNELS, 6), POSITION),
        ),
        (3, 4),
    ),
    "gated_modal_step": (
        lambda: (
            *(_random(ROWS, 3 * CHANNELS), _random(3 * CHANNELS, 3), *_modes()),
            *(_random(ROWS, 3 * CHANNELS, 2), _random(ROWS, CHANNELS, STATES), POSITION),
        ),
        (4, 5),
    ),
}


@pytest.mark.parametrize("active", [None, [True, False, True]])
@pytest.mark.parametrize("name", CASES)
def test_all_rows_at_once_give_what_each_row_gives(
    name: str, active: list[bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, changed = CASES[name]
    inputs, operator = make(), getattr(ops, name)
    options = {"skip": _random(CHANNELS), "active": None if active is None else torch.tensor(active)}
    one, other = ([value.clone() for value in inputs] for _ in range(2))
    expected = operator(*one, **options)
    for step in CASES:
        module = importlib.import_module(f"subquad.ops.{step}.{step}")
        asked = "host_reads_freely" if step.startswith("gated") else "host_filters_rows"
        monkeypatch.setattr(module, asked, lambda *_: False)
    y = operator(*other, **options)
    for row in range(ROWS):
        if active is None or active[row]:
            assert_close(y[row], expected[row], 1e-12)
    for place in changed:
        assert_close(other[place], one[place], 1e-12)
        assert not torch.equal(other[place], inputs[place])
        if active is not None:
            assert torch.equal(other[place][1], inputs[place][1])


@pytest.mark.parametrize("taps", [5, 18])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_steps_equal_the_convolution_and_round_once(dtype: torch.dtype, taps: int) -> None:
    """5 taps on all rows at once, 18 row by row; so 4 and 17 modes."""
    x, w = torch.randn(2, CHANNELS, 20).to(dtype), torch.randn(3, taps).to(dtype)
    poles, residues = -torch.rand(CHANNELS, taps - 1), torch.randn(CHANNELS, taps - 1)
    ring, state = x.new_zeros(2, CHANNELS, taps - 1), torch.zeros(2, CHANNELS, taps - 1)
    exact, _ = modal_conv_reference(x.double(), poles.double(), residues.double())
    filtered, decayed = [], []
    for t in range(20):
        filtered.append(ops.fir_step(x[..., t], w, ring, torch.full((2,), t)))
        decayed.append(ops.modal_step(x[..., t], poles, residues, state))
    bound = 2e-3 if dtype == torch.bfloat16 else 2.5e-4
    assert_close(torch.stack(filtered, dim=-1).double(), causal_conv_reference(x.double(), w.double()), bound)
    assert_close(torch.stack(decayed, dim=-1).double(), exact, bound)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gated_16_bit_steps_round_nothing_but_rings_and_result(dtype: torch.dtype) -> None:
    """The first token has no ring: its result is rounded once, not at every gate."""
    z, short = torch.randn(99, 3 * CHANNELS, 1).to(dtype), torch.randn(3 * CHANNELS, 3).to(dtype)
    taps, modes = torch.randn(2, 7).to(dtype), tuple(value.float() for value in _modes())
    position = torch.zeros(99, dtype=torch.int64)
    projection, mixer = z.new_zeros(99, 3 * CHANNELS, 2), z.new_zeros(99, CHANNELS, 6)
    y = ops.gated_conv_step(z[..., 0], short, taps, projection.clone(), mixer, position)
    _assert_rounded_once(y, gated_conv_reference, z, short, taps)
    y = ops.gated_modal_step(z[..., 0], short, *modes, projection, torch.zeros(99, CHANNELS, STATES), position)
    _assert_rounded_once(y, gated_modal_conv_reference, z, short, *modes)


def _assert_rounded_once(y: Tensor, reference: Callable[..., Tensor], *inputs: Tensor) -> None:
    exact, plain = (
        reference(*(value.to(dtype) for value in inputs))[..., 0] for dtype in (torch.float64, torch.float32)
    )
    assert_as_exact_as("output", exact, plain.to(y.dtype), y)


def test_poles_of_16_bit_steps_are_taken_in_float64() -> None:
    poles, residues, state = torch.full((1, 1), -1e-3), torch.ones(1, 1), torch.zeros(1, 1, 1)
    x = torch.ones(1, 1).bfloat16()
    for _ in range(2000):
        ops.modal_step(x, poles, residues, state)
    decay = torch.exp(poles.double())
    assert_close(state[0].double(), (1 - decay**2000) / (1 - decay), 1e-5)
