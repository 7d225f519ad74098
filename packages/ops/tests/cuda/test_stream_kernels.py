"""The CUDA library's Toeplitz and modal kernels against their definitions. Needs a GPU and the library."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from subquad import ops
from subquad.ops._cuda_streams import FEWEST_TAPS, MOST_TAPS
from tools.testing.oracle import assert_as_exact_as

pytestmark = pytest.mark.gpu

NAMES = (
    *(f"{name} {dtype}" for dtype in ("float32", "bfloat16") for name in ("causal_conv", "gated_conv", "modal_conv")),
    *(f"{name} {dtype}" for dtype in ("float32", "bfloat16") for name in ("gated_modal_conv", "gradients")),
    *(f"{name} {dtype}" for dtype in ("float32", "bfloat16") for name in ("state gradients", "few taps gradients")),
    "causal_conv activations",
    "gated_conv gates",
    "gated_modal_conv gates",
    "gated_modal_conv long",
    "strides",
    "far strides",
    "one graph",
    "refusals",
)
CHANNELS = 4


def _run_case(name: str) -> str:
    program = Path(__file__).parents[1] / "kernels" / "kernel_cases.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(program), "cuda", "cuda", name]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[str]]]:
    """The output of every case asked for; they run side by side, since the references take most of the time."""
    wanted = (item.callspec.params for item in request.session.items if "reports" in item.fixturenames)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {parameters["name"]: pool.submit(_run_case, parameters["name"]) for parameters in wanted}


@pytest.mark.parametrize("name", NAMES)
def test_kernel_computes_what_the_torch_form_computes(name: str, reports: dict[str, Future[str]]) -> None:
    report = reports[name].result()
    assert f"{name}: passed" in report.splitlines(), report[-12000:]


def _calls(length: int) -> dict[str, tuple[torch.Tensor, ...]]:
    z = torch.randn(2, 3 * CHANNELS, length, device="cuda", dtype=torch.bfloat16)
    projection, taps = torch.randn(3 * CHANNELS, 3, device="cuda"), torch.randn(CHANNELS, 128, device="cuda")
    poles, residues = -torch.rand(CHANNELS, 16, device="cuda"), torch.randn(CHANNELS, 16, device="cuda")
    return {
        "causal_conv": (z, torch.randn(3 * CHANNELS, 7, device="cuda")),
        "gated_conv": (z, projection, taps),
        "modal_conv": (z[:, :CHANNELS], poles, residues),
        "gated_modal_conv": (z, projection, poles, residues),
    }


OPERATORS = ("causal_conv", "gated_conv", "modal_conv", "gated_modal_conv")


@pytest.mark.parametrize("name", OPERATORS)
def test_auto_takes_the_library_on_a_gpu(name: str) -> None:
    assert ops.explain(name, *_calls(500)[name]).backend == "cuda"


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("length", [500, 8191])
def test_a_captured_call_replays_with_new_input(name: str, length: int) -> None:
    operator, arguments = getattr(ops, name), _calls(length)[name]
    operator(*arguments, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = operator(*arguments, backend="cuda")
    arguments[0].normal_()
    graph.replay()
    assert torch.equal(y, operator(*arguments, backend="cuda"))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_and_its_gradients_compile_to_one_graph(name: str) -> None:
    operator, (x, *parameters) = getattr(ops, name), _calls(300)[name]
    compiled = torch.compile(lambda x: operator(x, *parameters, backend="cuda"), fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, lambda x: operator(x, *parameters, backend="cuda")):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_with_states_and_its_gradients_compile_to_one_graph(name: str) -> None:
    operator, (x, *parameters) = getattr(ops, f"{name}_with_state"), _calls(300)[name]
    _, state = operator(x, *parameters, backend="cuda")
    compiled = torch.compile(
        lambda x, state: operator(x, *parameters, initial_state=state, backend="cuda"),
        fullgraph=True,
        backend="aot_eager",
    )
    results = []
    for function in (compiled, lambda x, state: operator(x, *parameters, initial_state=state, backend="cuda")):
        leaf = x.clone().requires_grad_()
        y, after = function(leaf, state)
        last = after if isinstance(after, torch.Tensor) else after[-1]
        results.append((y, last, *torch.autograd.grad(y.square().sum() + last.square().sum(), leaf)))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_tap_count_of_the_library_is_exact(dtype: torch.dtype) -> None:
    for taps in range(FEWEST_TAPS, MOST_TAPS + 1):
        x, w = torch.randn(1, 4, 1000, device="cuda").to(dtype), torch.randn(4, taps, device="cuda").to(dtype)
        oracle = ops.causal_conv(x.double(), w.double(), backend="torch")
        plain, got = (ops.causal_conv(x, w, backend=backend) for backend in ("torch", "cuda"))
        assert_as_exact_as(f"{taps} taps", oracle, plain, got)


@pytest.mark.parametrize("name", OPERATORS)
def test_nothing_before_a_changed_sample_changes(name: str) -> None:
    operator, (x, *parameters) = getattr(ops, name), _calls(3000)[name]
    before = operator(x, *parameters, backend="cuda")
    x[..., 1777:] += 1
    after = operator(x, *parameters, backend="cuda")
    assert torch.equal(before[..., :1777], after[..., :1777])
    assert not torch.equal(before[..., 1777:], after[..., 1777:])


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) + 1])
def test_a_long_row_beyond_32_bit_offsets_of_the_tensor_is_filtered(length: int) -> None:
    rows = (1 << 31) // length + 5
    x = torch.zeros(1, rows, length, device="cuda", dtype=torch.bfloat16)
    x[0, -1].normal_()
    taps = torch.randn(1, 128, device="cuda", dtype=torch.bfloat16)
    y = ops.causal_conv(x, taps, backend="cuda")
    assert torch.equal(y[:, -1:], ops.causal_conv(x[:, -1:].clone(), taps, backend="cuda"))
    assert not y[0, :-1].any()
