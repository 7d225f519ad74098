"""fp8_linear against its definition, and what must not change its result."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from subquad import ops
from subquad.ops import _scaled_mm_backend, dispatch, fp8_linear, round_to_e4m3, row_scales
from subquad.ops.fp8_linear.reference import e4m3_reference, fp8_linear_reference
from tools.testing.oracle import assert_close

INPUT, WEIGHT = torch.tensor(13.7), torch.tensor(881.3)  # no powers of two, so that scaling rounds


def case(dtype: torch.dtype, channels: int = 80, rows: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 21, channels, generator=generator) * 3
    return x.to(dtype), (torch.randn(rows, channels, generator=generator) * 0.1).to(dtype)


def run(x: Tensor, weight: Tensor, **options: str) -> Tensor:
    return fp8_linear(x, weight, input_scale=INPUT, weight_scale=WEIGHT, **options)


def test_every_e4m3_number_and_every_midpoint_between_two_is_rounded_as_defined() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = every[every.isfinite()].sort().values
    middles = (numbers[1:] + numbers[:-1]) / 2
    beside = torch.cat([middles.nextafter(torch.tensor(-1e9)), middles.nextafter(torch.tensor(1e9))])
    x = torch.cat([numbers, middles, beside, torch.tensor([449.0, -1e30, 3e38])])
    one = torch.ones(())
    assert torch.equal(round_to_e4m3(x, one).double(), e4m3_reference(x, one))
    assert torch.equal(round_to_e4m3(numbers, one).float(), numbers)
    assert round_to_e4m3(torch.tensor([1e5, -1e5]), one).float().tolist() == [448.0, -448.0]
    assert bool(round_to_e4m3(torch.tensor([torch.nan]), one).isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_result_is_within_one_unit_in_the_last_place_of_the_definition(dtype: torch.dtype) -> None:
    x, weight = case(dtype)
    got, exact = run(x, weight), fp8_linear_reference(x, weight, INPUT, WEIGHT)
    assert got.dtype == dtype
    if dtype in (torch.bfloat16, torch.float16):
        spacing = torch.ldexp(torch.ones_like(exact), torch.frexp(exact.abs())[1] - 1) * torch.finfo(dtype).eps
        assert float(((got.double() - exact).abs() / spacing).max()) <= 1.0
    else:
        assert_close(got, exact, {torch.float32: 3e-7, torch.float64: 1e-14}[dtype])


@pytest.mark.parametrize("input_scale", [INPUT, None], ids=["one scale", "scales of rows"])
@pytest.mark.parametrize("by_row", [False, True], ids=["one weight scale", "weight scales of rows"])
def test_every_kind_of_scale_gives_what_the_definition_gives(input_scale: Tensor | None, by_row: bool) -> None:
    x, weight = case(torch.float32)
    weight_scale = row_scales(weight)[:, 0] if by_row else WEIGHT
    got = fp8_linear(x, weight, input_scale=input_scale, weight_scale=weight_scale)
    assert_close(got, fp8_linear_reference(x, weight, input_scale, weight_scale), 3e-7)
    codes = round_to_e4m3(weight, weight_scale[:, None] if by_row else weight_scale)
    assert torch.equal(fp8_linear(x, codes, input_scale=input_scale, weight_scale=weight_scale), got)
    (of_x,) = torch.autograd.grad(
        fp8_linear(x.requires_grad_(), codes, input_scale=input_scale, weight_scale=weight_scale).sum(), x
    )
    assert_close(of_x, weight.sum(0).expand_as(x), 0.1)


def test_scales_of_rows_use_the_whole_range_and_leave_zeros_zero() -> None:
    x = torch.tensor([[1e-30, -3e-30], [0.0, 0.0], [5e4, 1.0]])
    scales = row_scales(x)
    assert round_to_e4m3(x, scales).float().abs().amax(dim=1).tolist() == [448.0, 0.0, 448.0]
    y = fp8_linear(x, torch.eye(2), weight_scale=torch.tensor(448.0))
    assert_close(y, x, 0.07)
    assert y[1].tolist() == [0.0, 0.0]


def test_rounding_costs_what_three_bits_of_mantissa_cost() -> None:
    x, weight = case(torch.float64)
    exact = x @ weight.t()
    error = float((run(x, weight) - exact).norm() / exact.norm())
    assert 0.01 < error < 0.06


def test_rows_of_zeros_added_for_alignment_change_nothing() -> None:
    x, weight = case(torch.bfloat16)
    padded = torch.cat([x, torch.zeros(2, 11, 80, dtype=x.dtype)], dim=1)
    assert torch.equal(run(padded, weight)[:, :21], run(x, weight))
    assert bool((run(padded, weight)[:, 21:] == 0).all())


def test_a_weight_rounded_beforehand_gives_the_same() -> None:
    x, weight = case(torch.bfloat16)
    assert torch.equal(run(x, round_to_e4m3(weight, WEIGHT)), run(x, weight))


def test_one_token_gives_what_it_gives_in_a_sequence() -> None:
    x, weight = case(torch.float64)
    whole = run(x, weight)
    for t in range(21):
        assert_close(run(x[:, t], weight), whole[:, t], 1e-14)


def test_gradients_are_those_of_the_product_without_rounding() -> None:
    x, weight = (t.requires_grad_() for t in case(torch.float64))
    upstream = torch.randn(2, 21, 48, dtype=torch.float64)
    got = torch.autograd.grad(run(x, weight), (x, weight), upstream)
    expected = torch.autograd.grad(x @ weight.t(), (x, weight), upstream)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, 1e-12)
    (of_x,) = torch.autograd.grad(run(x, round_to_e4m3(weight.detach(), WEIGHT)), (x,), upstream)
    assert_close(of_x, expected[0], 0.05)


def test_an_empty_batch_and_sizes_that_are_no_multiple_of_16_are_taken() -> None:
    x, weight = case(torch.float32, channels=13, rows=5)
    assert run(x[:0], weight).shape == (0, 21, 5)
    assert_close(run(x, weight), fp8_linear_reference(x, weight, INPUT, WEIGHT), 3e-7)


def test_a_cpu_call_runs_in_torch_and_says_why_the_tensor_cores_do_not() -> None:
    x, weight = case(torch.float32)
    explanation = ops.explain("fp8_linear", x, weight, input_scale=INPUT, weight_scale=WEIGHT)
    assert (explanation.backend, explanation.reason) == ("torch", "the tensors are on cpu")
    with pytest.raises(ops.BackendUnavailable, match="backend 'scaled_mm' cannot take this fp8_linear: "):
        run(x, weight, backend="scaled_mm")


@pytest.mark.parametrize("rows", [8000, 2048, 1856, 13, 1])
@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, "scaled_mm"), (None, "torch"), (torch.float16, "torch")]
)
def test_rounded_rows_are_dispatched_by_the_type_of_the_result(
    rows: int, dtype: torch.dtype | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, choose = [], dispatch.choose

    def on_a_hopper(call: dispatch.Call, backend: str) -> tuple[None, dispatch.Explanation]:
        taken.append(choose(replace(call, device="cuda"), backend)[1].backend)
        return None, dispatch.Explanation("torch", "there is no GPU here")

    offered = {"scaled_mm": (None, _scaled_mm_backend.implementations())}
    monkeypatch.setattr(dispatch, "load_backend", offered.__getitem__)
    monkeypatch.setattr(dispatch, "choose", on_a_hopper)
    codes = round_to_e4m3(torch.ones(1, rows, 24), torch.ones(()))
    x = ops.RoundedRows(codes, torch.ones(1, rows))
    fp8_linear(x, torch.ones(20, 24), weight_scale=torch.ones(20), dtype=dtype)
    assert taken == [expected]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"weight": torch.ones(5, 79)}, ops.ShapeMismatch, r"x has shape \(2, 21, 80\), weight \(5, 79\); their last"),
        ({"weight": torch.ones(80)}, ops.ShapeMismatch, r"weight has 1 axes \(80,\); accepted: 2"),
        ({"weight": torch.ones(5, 80, dtype=torch.int32)}, ops.DtypeMismatch, "weight is torch.int32"),
        ({"input_scale": torch.tensor(0.0)}, ops.ArgumentOutOfRange, "input_scale is 0.0; accepted: a positive"),
        ({"input_scale": torch.tensor(torch.nan)}, ops.ArgumentOutOfRange, "input_scale is nan"),
        ({"weight_scale": torch.tensor(2.0).double()}, ops.DtypeMismatch, "weight_scale is torch.float64"),
        ({"weight_scale": torch.ones(4)}, ops.ShapeMismatch, r"shape \(4,\); accepted: one number, or 48 as rows"),
        ({"input_scale": torch.ones(4)}, ops.ShapeMismatch, r"input_scale has shape \(4,\); accepted: one number$"),
        ({"weight_scale": torch.tensor(2.0, device="meta")}, ops.DeviceMismatch, "weight_scale is on meta, x on cpu"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_an_argument_that_does_not_fit_is_named(change: dict[str, Tensor], error: type[Exception], text: str) -> None:
    x, weight = case(torch.float32)
    arguments = {"weight": weight, "input_scale": INPUT, "weight_scale": WEIGHT, **change}
    with pytest.raises(error, match=text):
        fp8_linear(x, **arguments)


@pytest.mark.usefixtures("unchecked")
def test_an_inverse_that_is_kept_is_used_and_must_fit() -> None:
    x, weight = torch.randn(5, 32), torch.randn(6, 32)
    scale = row_scales(weight)[:, 0]
    for backend in ("torch", "hopper_sums"):
        plain = fp8_linear(x, weight, weight_scale=scale, backend=backend)
        kept = fp8_linear(x, weight, weight_scale=scale, weight_inverse=scale.reciprocal(), backend=backend)
        twice = fp8_linear(x, weight, weight_scale=scale, weight_inverse=2 / scale, backend=backend)
        assert torch.equal(kept, plain)
        assert torch.allclose(twice, 2 * plain)
    with pytest.raises(ops.ShapeMismatch, match=r"weight_inverse has shape \(5,\); weight_scale \(6,\) needs \(6,\)"):
        fp8_linear(x, weight, weight_scale=scale, weight_inverse=torch.ones(5))
    with pytest.raises(ops.DtypeMismatch, match=r"weight_inverse is torch\.bfloat16; accepted: float32"):
        fp8_linear(x, weight, weight_scale=scale, weight_inverse=scale.reciprocal().bfloat16())


def test_scales_that_need_no_rows_of_alignment_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def product(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, *_: object) -> Tensor:
        seen.extend((left, right, left_scale, right_scale))
        return torch.zeros(len(left), len(right))

    monkeypatch.setattr(_scaled_mm_backend, "_product", product)
    rows = ops.rounded_rows(torch.randn(1, 32, 64))
    weight = torch.randn(48, 64)
    scale = row_scales(weight)[:, 0].contiguous()
    codes, inverse = round_to_e4m3(weight, scale[:, None]), scale.reciprocal()
    for layout in ("BLH", "BHL"):
        _scaled_mm_backend._fp8_linear(
            rows, codes, input_scale=None, weight_scale=scale, weight_inverse=inverse, layout=layout
        )
        given = [x.data_ptr() for x in (rows.codes, codes, rows.inverse, inverse)]
        order = (0, 1, 2, 3) if layout == "BLH" else (1, 0, 3, 2)
        assert [x.data_ptr() for x in seen] == [given[i] for i in order]
        assert [tuple(x.shape) for x in seen[2:]] == [(len(seen[0]), 1), (len(seen[1]), 1)]
        seen.clear()
    _scaled_mm_backend._fp8_linear(
        ops.rounded_rows(torch.randn(30, 64)), codes[:40], input_scale=None, weight_scale=scale[:40]
    )
    assert [tuple(x.shape) for x in seen] == [(32, 64), (48, 64), (32, 1), (48, 1)]
    assert bool((seen[3][40:] == 1).all())


@pytest.mark.parametrize("shape", [(1, 32, 64), (2, 16, 64), (32, 64), (1, 31, 64), (1, 32, 60)], ids=str)
@pytest.mark.parametrize("bias", [None, torch.bfloat16, torch.float32], ids=str)
def test_a_product_that_needs_no_alignment_is_the_one_that_does(
    shape: tuple[int, ...], bias: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(left: Tensor, right: Tensor, of_left: Tensor, of_right: Tensor, bias: Tensor | None, kind: torch.dtype):
        y = (left.float() * of_left) @ (right.float() * of_right).t()
        return (y if bias is None else y + bias.float()).to(kind)

    monkeypatch.setattr(_scaled_mm_backend, "_product", product)
    rows, weight = ops.rounded_rows(torch.randn(shape)), torch.randn(48, shape[-1])
    scale = row_scales(weight)[:, 0].contiguous()
    codes, options = round_to_e4m3(weight, scale[:, None]), {"weight_scale": scale, "weight_inverse": 1 / scale}
    options |= {"bias": None if bias is None else torch.randn(48).to(bias), "dtype": torch.bfloat16}
    for layout in ("BLH", "BHL")[: len(shape) - 1]:
        got = _scaled_mm_backend._fp8_linear(rows, codes, input_scale=None, layout=layout, **options)
        expected = fp8_linear(rows, codes, layout=layout, backend="torch", **options)
        assert (got.shape, got.dtype) == (expected.shape, torch.bfloat16)
        assert_close(got, expected, 1e-2)
        monkeypatch.setattr(_scaled_mm_backend, "_fitting", lambda *_: None)
        aligned = _scaled_mm_backend._fp8_linear(rows, codes, input_scale=None, layout=layout, **options)
        monkeypatch.undo()
        monkeypatch.setattr(_scaled_mm_backend, "_product", product)
        assert torch.equal(got, aligned)
        assert got.stride() == aligned.stride() or got.numel() == 0
