"""fp8_linear on the 8-bit tensor cores of an H100 against its definition."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from subquad import ops
from subquad.ops.fp8_linear.reference import fp8_linear_reference

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]


def case(rows: int, channels: int, outputs: int, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator("cuda").manual_seed(1)
    weight = torch.randn(outputs, channels, generator=generator, device="cuda") * 0.02
    return {
        "x": torch.randn(rows, channels, generator=generator, device="cuda").to(dtype),
        "weight": weight.to(dtype),
        "input_scale": torch.tensor(57.3, device="cuda"),
        "weight_scale": torch.tensor(3111.0, device="cuda"),
    }


def run(arguments: dict[str, Any], **options: str) -> Tensor:
    rest = {name: value for name, value in arguments.items() if name != "x"}
    return ops.fp8_linear(arguments["x"], **rest, **options)


def error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1920, 5760), (17, 1920, 5760), (4096, 1920, 5760), (513, 4096, 12288), (5, 13, 7)], ids=str
)
def test_both_forms_match_the_definition(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    arguments = case(*shape, dtype)
    exact = fp8_linear_reference(**arguments)
    rounding = {torch.bfloat16: 2e-3, torch.float16: 3e-4, torch.float32: 1e-6}[dtype]
    assert error(run(arguments, backend="torch"), exact) < rounding
    assert error(run(arguments, backend="scaled_mm"), exact) < rounding + 2e-3


@pytest.mark.parametrize("shape", [(1, 1920, 5760), (17, 1920, 5760), (300, 11264, 4096), (5, 13, 7)], ids=str)
def test_scales_of_rows_match_the_definition(shape: tuple[int, int, int]) -> None:
    arguments = case(*shape, torch.bfloat16)
    arguments["weight_scale"] = ops.row_scales(arguments["weight"])[:, 0]
    options = {**arguments, "input_scale": None}
    exact = fp8_linear_reference(**options)
    assert error(run(options, backend="torch"), exact) < 2e-3
    assert error(run(options, backend="scaled_mm"), exact) < 5e-3


def test_the_reproduced_sums_are_those_of_the_card() -> None:
    arguments = case(33, 1920, 200, torch.float32)
    got, card = run(arguments, backend="hopper_sums"), run(arguments, backend="scaled_mm")
    assert error(got, card.double()) < 1e-6


def test_auto_takes_the_tensor_cores_where_there_are_any() -> None:
    arguments = case(4, 64, 32, torch.bfloat16)
    x = arguments.pop("x")
    expected = "scaled_mm" if torch.cuda.get_device_capability() >= (9, 0) else "torch"
    assert ops.explain("fp8_linear", x, **arguments).backend == expected


def test_rows_added_for_alignment_change_nothing() -> None:
    arguments = case(17, 1920, 5760, torch.bfloat16)
    padded = {**arguments, "x": torch.cat([arguments["x"], torch.zeros_like(arguments["x"][:15])])}
    torch.testing.assert_close(run(padded)[:17], run(arguments), rtol=0, atol=0)


def test_a_captured_call_replays_with_new_input() -> None:
    arguments = case(1, 1920, 5760, torch.bfloat16)
    run(arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(arguments)
    arguments["x"].normal_()
    graph.replay()
    torch.testing.assert_close(y, run(arguments), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 8000, 4096, 12288), (2, 48, 1920, 5760), (3, 21, 70, 33)], ids=str)
@pytest.mark.parametrize("layout", ["BLH", "BHL"])
def test_rounded_rows_give_what_their_numbers_give_in_both_layouts(
    shape: tuple[int, int, int, int], layout: Literal["BLH", "BHL"]
) -> None:
    batch, length, channels, outputs = shape
    arguments = case(batch * length, channels, outputs, torch.bfloat16)
    weight, bias = arguments["weight"], torch.randn(outputs, device="cuda").bfloat16()
    scale = ops.row_scales(weight)[:, 0]
    rows = ops.rounded_rows(arguments["x"].unflatten(0, (batch, length)))
    got = ops.fp8_linear(
        rows, weight, weight_scale=scale, bias=bias, layout=layout, dtype=torch.bfloat16, backend="scaled_mm"
    )
    exact = fp8_linear_reference(arguments["x"], weight, None, scale).unflatten(0, (batch, length)) + bias.double()
    assert got.dtype == torch.bfloat16
    assert error(got, exact if layout == "BLH" else exact.transpose(1, 2)) < 5e-3
