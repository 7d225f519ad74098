"""Norm, rotary positions and MLP against their formulas."""

import torch

from subquad.modules import GatedMLP, RMSNorm, RotaryEmbedding
from tools.testing.oracle import assert_close


def test_both_forms_of_the_norm_follow_their_formula() -> None:
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    square = x.pow(2).mean(-1, keepdim=True)
    for form, expected in (("vortex", x / (square.sqrt() + 0.1)), ("standard", x / (square + 0.1).sqrt())):
        norm = RMSNorm(8, eps=0.1, form=form, dtype=torch.float64)
        norm.scale.data.mul_(3)
        assert_close(norm(x), 3 * expected, relative=1e-15)


def test_the_norm_of_bfloat16_is_rounded_once() -> None:
    x = torch.randn(4, 512).bfloat16()
    assert torch.equal(RMSNorm(512, dtype=torch.bfloat16)(x), RMSNorm(512)(x.float()).bfloat16())


def test_the_norm_of_zeros_is_zero() -> None:
    for form in ("vortex", "standard"):
        assert torch.equal(RMSNorm(4, form=form)(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_rotary_products_depend_on_the_distance_only() -> None:
    rotary = RotaryEmbedding(16).double()
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)

    def product(at: int, other: int) -> float:
        return float((rotary(q, torch.tensor([[at]])) * rotary(k, torch.tensor([[other]]))).sum())

    assert abs(product(7, 3) - product(1004, 1000)) < 1e-11
    assert abs(product(7, 3) - product(7, 4)) > 1e-3


def test_rotary_scale_divides_positions() -> None:
    x = torch.randn(1, 1, 2, 8)
    at = torch.tensor([[256]])
    assert torch.equal(RotaryEmbedding(8, scale=128.0)(x, at), RotaryEmbedding(8)(x, torch.tensor([[2]])))


def test_the_mlp_gates_with_exact_gelu_or_not_at_all() -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    for activation, act in (("gelu", torch.nn.functional.gelu), ("identity", lambda value: value)):
        mlp = GatedMLP(8, 12, activation=activation, dtype=torch.float64)
        expected = (act(x @ mlp.l1.weight.T) * (x @ mlp.l2.weight.T)) @ mlp.l3.weight.T
        assert_close(mlp(x), expected, relative=1e-14)
