"""The CUDA library's decode products of several vectors against their definitions. Needs a GPU of capability 9.0."""

from typing import Any

import pytest
import torch
from torch import Tensor

from packages.ops.tests.cuda.decode_cases import hold, matrix, norm_of, random_values, rounded, wide
from subquad import ops
from tools.testing.oracle import assert_as_exact_as

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]

# Inputs and outputs: fewer than a unit of weights, units that do not come out even, of 1B and of 7B, more tiles than
# clusters, and outputs that end within a tile.
SIZES = ((16, 5), (264, 130), (1920, 512), (1920, 5760), (4096, 1056), (11264, 200), (528, 12000))
ROWS = (2, 3, 8, 9, 31, 32, 33, 64)


def _fits(rows: int, inputs: int) -> bool:
    return rows <= 32 or inputs <= 8192


@pytest.mark.parametrize("form", [None, "vortex", "standard"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_linear_step_of_rows(inputs: int, outputs: int, rows: int, form: str | None) -> None:
    if not _fits(rows, inputs):
        pytest.skip("refused: the vectors do not fit")
    torch.manual_seed(inputs + rows)
    x, weight, norm = random_values(rows, inputs), matrix(outputs, inputs), norm_of(form, inputs)
    bias, residual = random_values(outputs), random_values(rows, outputs)
    hold(ops.linear_step, x, weight, norm=norm, bias=bias.float(), residual=residual)
    if inputs % 16 == 0:
        hold(ops.linear_step, x, rounded(weight), norm=norm, bias=bias)


@pytest.mark.parametrize("form", [None, "vortex"])
@pytest.mark.parametrize("rows", [2, 17, 32, 64])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_gated_linear_step_of_rows(inputs: int, outputs: int, rows: int, form: str | None) -> None:
    if not _fits(rows, inputs):
        pytest.skip("refused: the vectors do not fit")
    torch.manual_seed(inputs + rows)
    x, norm = random_values(rows, inputs), norm_of(form, inputs)
    gate, value = matrix(outputs, inputs), matrix(outputs, inputs)
    for activation in ("gelu", None):
        hold(ops.gated_linear_step, x, gate, value, norm=norm, activation=activation)
    if inputs % 16 == 0:
        hold(ops.gated_linear_step, x, rounded(gate), rounded(value), norm=norm, activation="gelu")


@pytest.mark.parametrize("weights", ["bfloat16", "e4m3"])
def test_a_row_has_the_same_bits_whatever_runs_beside_it(weights: str) -> None:
    torch.manual_seed(3)
    x, weight, norm = random_values(64, 1920), matrix(1000, 1920), norm_of("standard", 1920)
    given = rounded(weight) if weights == "e4m3" else weight
    whole = ops.linear_step(x, given, norm=norm, backend="cuda")
    for rows in ([0, 1], [5, 63, 7], list(range(9, 29)), list(range(63, 30, -1))):
        assert torch.equal(ops.linear_step(x[rows], given, norm=norm, backend="cuda"), whole[rows])


def test_every_code_of_a_weight_is_what_it_stands_for() -> None:
    codes = torch.arange(256, device="cuda", dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F].repeat(64)[: 128 * 32].view(torch.float8_e4m3fn)
    weight = ops.RoundedWeight(codes.view(32, 128).clone(), torch.ones(32, device="cuda"))
    x = torch.zeros(64, 128, device="cuda").bfloat16()
    x[torch.arange(64), torch.arange(64) * 2] = 1.0
    found = ops.linear_step(x, weight, backend="cuda")
    assert torch.equal(found, weight.codes.float().t()[::2].bfloat16())


def test_a_chain_of_early_starts_reads_nothing_too_early() -> None:
    """Products that depend on each other in one graph, replayed: each starts before the one in front of it ends."""
    torch.manual_seed(0)
    rows, inputs, inner = 16, 1920, 5120
    layers = [(matrix(inner, inputs), matrix(inner, inputs), matrix(inputs, inner)) for _ in range(12)]
    norm, bias = norm_of("standard", inputs), random_values(inputs)
    square = layers[0][2][:, :inputs].contiguous()

    def run(x: Tensor, **options: Any) -> Tensor:
        before = wide(norm) if x.dtype == torch.float64 else norm
        for layer in layers:
            gate, value, out = (weight.to(x.dtype) for weight in layer)
            y = ops.gated_linear_step(x, gate, value, norm=before, activation="gelu", **options)
            x = ops.linear_step(y, out, bias=bias.to(x.dtype), residual=x, **options)
            x = ops.linear_step(x, square.to(x.dtype), norm=before, residual=x, **options)
        return x

    given = random_values(rows, inputs)
    eager = run(given, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(given, backend="cuda")
    for _ in range(20):
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, eager)
    assert_as_exact_as("chain", run(given.double()), run(given, backend="torch"), eager)


@pytest.mark.parametrize("weights", ["bfloat16", "e4m3"])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(64, 528, 12000), (32, 4096, 12288), (8, 264, 4000), (32, 11264, 4096)]
)
def test_the_same_call_gives_the_same_bits_each_time(rows: int, inputs: int, outputs: int, weights: str) -> None:
    """Copies that come too early, or sums that are read too late, show once in a few hundred calls."""
    torch.manual_seed(rows)
    if weights == "e4m3" and inputs % 16:
        inputs += 8
    x, weight = random_values(rows, inputs), matrix(outputs, inputs)
    given = rounded(weight) if weights == "e4m3" else weight
    hold(ops.linear_step, x, given)
    first = ops.linear_step(x, given, backend="cuda")
    for _ in range(20):
        results = [ops.linear_step(x, given, backend="cuda") for _ in range(20)]
        assert all(torch.equal(result, first) for result in results)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("weights", ["bfloat16", "e4m3"])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_sums_can_be_had_unrounded(rows: int, weights: str, backend: str) -> None:
    torch.manual_seed(rows)
    x, weight, residual = random_values(rows, 1920), matrix(512, 1920), random_values(rows, 512)
    given = rounded(weight) if weights == "e4m3" else weight
    y = ops.linear_step(x, given, residual=residual, output_dtype=torch.float32, backend=backend)
    exactly = ops.linear_step(x.double(), wide(given), residual=residual.double(), backend="torch")
    assert y.dtype == torch.float32
    assert float((y - exactly).abs().max()) < 2e-5
    plain = ops.linear_step(x, given, residual=residual, backend=backend)
    assert torch.equal(y.bfloat16(), plain)
