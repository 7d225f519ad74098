"""The attention of ViT-5: what is rotated, by what, and what it equals without registers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.modules import ConfigurationError, InputMismatch, MultiHeadAttention, RegisterAttention, StateUnsupported
from tools.testing.oracle import assert_close

GRID = (3, 5)


def make(**options: Any) -> RegisterAttention:
    torch.manual_seed(0)
    return RegisterAttention(16, num_heads=2, grid_size=GRID, **options).double()


def streams(tokens: int) -> Tensor:
    return torch.randn(3, 2, tokens, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("qk_norm", ["rms", "l2", None])
def test_patches_alone_are_attended_to_as_on_a_grid(qk_norm: Any) -> None:
    model = make(num_registers=0, class_token=False, qk_norm=qk_norm)
    grid = MultiHeadAttention(16, num_heads=2, data_dim=2, qk_norm=qk_norm).double()
    qkv = streams(15)
    expected = grid(*(x.unflatten(1, GRID) for x in qkv)).flatten(1, 2)
    assert_close(model(*qkv), expected, relative=1e-12)


def rotated(x: Tensor, position: tuple[int, ...], base: float) -> Tensor:
    """Rotates one head of 8 channels by a position on two axes, pair by pair."""
    parts = []
    for part, at in zip(x.chunk(2, -1), position, strict=True):
        angle = at / base ** (torch.arange(2, dtype=torch.float64) / 2)
        low, high = part.chunk(2, -1)
        parts += [low * angle.cos() - high * angle.sin(), low * angle.sin() + high * angle.cos()]
    return torch.cat(parts, -1)


def test_all_tokens_follow_the_formula() -> None:
    model = make(num_registers=4, qk_norm="rms")
    model.q_norm.scale.data.normal_()
    q, k, v = (x.unflatten(-1, (2, 8)) for x in streams(20))
    at = [(i, j) for i in range(3) for j in range(5)], [(i, j) for i in range(2) for j in range(2)]
    places = [*((p, 1e4) for p in at[0]), ((0, 0), 1.0), *((p, 100.0) for p in at[1])]
    normed = [
        norm.scale * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for x, norm in ((q, model.q_norm), (k, model.k_norm))
    ]
    q, k = (torch.stack([rotated(x[:, t], *place) for t, place in enumerate(places)], 1) for x in normed)
    weights = torch.einsum("bthd,bshd->bhts", q, k).div(8**0.5).softmax(-1)
    expected = torch.einsum("bhts,bshd->bthd", weights, v).flatten(2)
    assert_close(model(*streams(20)), expected, relative=1e-6)  # angles are float32 as checkpoints store them


@pytest.mark.parametrize(("grid", "registers"), [((4,), 3), ((3, 5), 5), ((2, 2, 2), 9)])
def test_any_number_of_registers_has_positions_that_differ(grid: tuple[int, ...], registers: int) -> None:
    torch.manual_seed(0)
    model = RegisterAttention(12, num_heads=1, grid_size=grid, num_registers=registers).double()
    same = torch.randn(1, 1, 12, dtype=torch.float64).expand(1, model.num_tokens, 12)
    values = torch.randn(1, model.num_tokens, 12, dtype=torch.float64)
    y = model(same, same, values)[0, -registers:]
    distances = torch.cdist(y, y) + torch.eye(registers)
    assert float(distances.min()) > 1e-6


def test_other_numbers_of_tokens_registers_and_a_state_are_refused() -> None:
    model = make()
    assert model.num_tokens == 20
    with pytest.raises(
        InputMismatch, match=r"accepted are 20 tokens: a grid of \(3, 5\), 1 class token and 4 registers"
    ):
        model(*streams(21))
    with pytest.raises(ConfigurationError, match="num_registers is -1"):
        make(num_registers=-1)
    with pytest.raises(StateUnsupported, match="RegisterAttention cannot continue"):
        model.init_state(1, max_length=20)
