"""Attention over grids against a softmax written out in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from subquad.modules import (
    AxialRotaryEmbedding,
    ConfigurationError,
    InputMismatch,
    MultiHeadAttention,
    StateUnsupported,
)
from subquad.modules.parts.axial_rotary import grid_positions
from tools.testing.oracle import assert_close

SIZES = {1: (700,), 2: (18, 17), 3: (6, 7, 8)}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_key_value_heads": 1},
    {"num_key_value_heads": 2, "qk_norm": "rms"},
    {"qk_norm": "l2", "rotary_base": None},
    {"window": 3},
    {"rotary_base": 50.0, "scale": 0.7},
]


def written_out(model: MultiHeadAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    size, positions = q.shape[1:-1], grid_positions(q.shape[1:-1], "cpu")
    q, k, v = (x.flatten(1, -2).unflatten(-1, (-1, model.head_size)) for x in (q, k, v))
    q, k = model.q_norm(q), model.k_norm(k)
    if model.rotary is not None:
        q, k = (rotated(x, positions, model.rotary) for x in (q, k))
    repeats = model.num_heads // model.num_key_value_heads
    k, v = k.repeat_interleave(repeats, 2), v.repeat_interleave(repeats, 2)
    scores = model.scale * torch.einsum("bthd,bshd->bhts", q, k)
    apart = positions[:, None] - positions[None]
    hidden = (apart < 0).any(-1) if model.causal else torch.zeros(apart.shape[:2], dtype=torch.bool)
    if model.window is not None:
        hidden = hidden | (apart.abs() >= model.window).any(-1)
    y = torch.einsum("bhts,bshd->bthd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)
    return y.flatten(2).unflatten(1, size)


def rotated(x: Tensor, positions: Tensor, rotary: AxialRotaryEmbedding) -> Tensor:
    """Rotates as complex numbers, one axis of space after the other."""
    parts = []
    for axis, part in enumerate(x.chunk(positions.shape[1], -1)):
        half = part.shape[-1] // 2
        turns = torch.polar(torch.ones(()).double(), positions[:, axis, None] * rotary.rotary.inv_freq)
        turned = torch.complex(part[..., :half], part[..., half:]) * turns[:, None]
        parts += [turned.real, turned.imag]
    return torch.cat(parts, -1)


def make(data_dim: int, **options: Any) -> tuple[MultiHeadAttention, list[Tensor]]:
    torch.manual_seed(0)
    model = MultiHeadAttention(24, num_heads=2, data_dim=data_dim, **options).double()
    for parameter in model.parameters():
        parameter.data.normal_()
    return model, [torch.randn(2, *SIZES[data_dim], n, dtype=torch.float64) for n in model.stream_channels]


@pytest.mark.parametrize("data_dim", [1, 2, 3])
@pytest.mark.parametrize("options", OPTIONS)
def test_it_equals_the_softmax_written_out(data_dim: int, options: dict[str, Any]) -> None:
    model, qkv = make(data_dim, **options)
    assert_close(model(*qkv), written_out(model, *qkv), relative=1e-12)


@pytest.mark.parametrize("options", [*OPTIONS, {"window": 300}, {"window": 1}])
def test_it_equals_the_causal_softmax_written_out(options: dict[str, Any]) -> None:
    model, qkv = make(1, causal=True, **options)
    assert_close(model(*qkv), written_out(model, *qkv), relative=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("options", [{"window": 90}, {"window": 300, "num_key_value_heads": 1}])
def test_a_window_over_many_blocks_equals_the_softmax_written_out(causal: bool, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = MultiHeadAttention(8, num_heads=2, causal=causal, **options).double()
    qkv = [torch.randn(2, 2100, n, dtype=torch.float64) for n in model.stream_channels]
    assert_close(model(*qkv), written_out(model, *qkv), relative=1e-12)


@pytest.mark.parametrize("options", [{"window": 5}, {"window": 300, "num_key_value_heads": 1}])
def test_chunks_and_steps_with_a_window_equal_forward(options: dict[str, Any]) -> None:
    model, qkv = make(1, causal=True, **options)
    state = model.init_state(2, max_length=700, dtype=torch.float64)
    pieces = []
    with torch.inference_mode():
        for q, k, v in zip(*(x.split([1, 400, 1, 298], 1) for x in qkv), strict=True):
            one = q.shape[1] == 1
            y = model.step(q[:, 0], k[:, 0], v[:, 0], state).unsqueeze(1) if one else model(q, k, v, state=state)
            pieces.append(y)
            state.advance(q.shape[1])
        assert_close(torch.cat(pieces, 1), model(*qkv), relative=1e-12)


@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_products_of_rotated_heads_depend_on_the_distance_along_each_axis(data_dim: int) -> None:
    rotary = AxialRotaryEmbedding(24, data_dim=data_dim).double()
    q, k = torch.randn(2, 1, 1, 1, 24, dtype=torch.float64)

    def product(at: list[int], other: list[int]) -> float:
        return float((rotary(q, torch.tensor([[at]])) * rotary(k, torch.tensor([[other]]))).sum())

    at, other, shift = [7, 2, 5][:data_dim], [3, 9, 1][:data_dim], [100, 11, 40][:data_dim]
    moved = [[a + s for a, s in zip(place, shift, strict=True)] for place in (at, other)]
    assert abs(product(at, other) - product(*moved)) < 1e-11
    assert abs(product(at, other) - product(moved[0], other)) > 1e-3


def test_one_model_takes_grids_of_several_sizes() -> None:
    model, _ = make(2)
    for size in ((4, 4), (9, 3), (1, 1)):
        qkv = [torch.randn(1, *size, 24, dtype=torch.float64) for _ in range(3)]
        assert_close(model(*qkv), written_out(model, *qkv), relative=1e-12)


def test_operations_with_a_window_grow_with_the_length_only() -> None:
    model, _ = make(1, causal=True, window=64)
    assert math.isclose(model.flop_count(16384) / model.flop_count(8192), 2, rel_tol=0.05)
    assert model.flop_count(8192) < 0.1 * make(1, causal=True)[0].flop_count(8192)


def test_weights_are_dropped_in_training_only() -> None:
    model, qkv = make(1, dropout=0.5)
    assert not torch.equal(model(*qkv), model(*qkv))
    model.eval()
    assert torch.equal(model(*qkv), model(*qkv))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "24 channels, 5 heads"),
        ({"num_heads": 4, "num_key_value_heads": 3}, "3 key and value heads"),
        ({"num_heads": 4, "data_dim": 2, "causal": True}, "data_dim is 2, causal True"),
        ({"num_heads": 12, "data_dim": 2}, "multiples of 4"),
        ({"num_heads": 4, "window": 0}, "window is 0"),
        ({"num_heads": 4, "dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MultiHeadAttention(24, **options)


def test_another_rank_and_a_state_without_causality_are_refused() -> None:
    model, qkv = make(2)
    with pytest.raises(InputMismatch, match=r"q has 1 axes of space, .*; accepted are 2"):
        model(*(x.flatten(1, 2) for x in qkv))
    with pytest.raises(StateUnsupported, match="MultiHeadAttention cannot continue"):
        model.init_state(1, max_length=3)


@pytest.mark.parametrize("options", [{}, {"rotary_base": None}, {"qk_norm": "rms"}])
def test_the_interleaved_streams_of_a_projection_reach_a_fused_kernel(options: dict[str, Any]) -> None:
    """Channels that are three apart in memory would leave the form that holds all pairs as the only one."""
    model = MultiHeadAttention(16, num_heads=2, causal=True, **options)
    qkv = torch.randn(2, 50, 16, 3).unbind(-1)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        y = model(*qkv)
    with sdpa_kernel(SDPBackend.MATH):
        assert_close(y, model(*qkv), relative=1e-5)
