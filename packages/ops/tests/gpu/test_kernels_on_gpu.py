"""Every Triton kernel on the GPU, compiled, in a process without the shape checker; and inside a CUDA graph."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from subquad import ops
from subquad.ops.dispatch import AUTO_ON_CUDA

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]

NAMES = (
    "causal_conv float32",
    "causal_conv bfloat16",
    "causal_conv activations",
    "gated_conv float32",
    "gated_conv bfloat16",
    "gated_conv gates",
    "gated_modal_conv float32",
    "gated_modal_conv bfloat16",
    "modal_conv float32",
    "modal_conv bfloat16",
    "linear_step float32",
    "linear_step 16 bits",
    "gated_linear_step float32",
    "gated_linear_step 16 bits",
    "gated steps float32",
    "gated steps 16 bits",
    "attention_step float32",
    "attention_step 16 bits",
    "gated_modal_conv long",
    "gated_modal_conv gates",
    "rms_norm float32",
    "rms_norm bfloat16",
    "gated_product float32",
    "gated_product bfloat16",
    "rotary float32",
    "rotary bfloat16",
    "rotary far",
    "fir_step",
    "fp8 rounding",
    "rounded rows",
    "rings",
    "modal_step",
    "slow poles",
    "greedy_step",
    "gradients",
    "strides",
    "one graph",
    "refusals",
    "far strides",
    "far rows",
)

KERNELS = [name for name, order in AUTO_ON_CUDA.items() if "triton" in order]


def _run_case(name: str) -> str:
    path = os.pathsep.join(path for path in sys.path if path)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).parents[1] / "kernels" / "kernel_cases.py"
    result = subprocess.run(
        [sys.executable, str(program), "cuda", "triton", name],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[str]]]:
    """The output of every case that was asked for; they run side by side, since most of their time compiles kernels."""
    wanted = (item.callspec.params for item in request.session.items if "reports" in item.fixturenames)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {parameters["name"]: pool.submit(_run_case, parameters["name"]) for parameters in wanted}


@pytest.mark.parametrize("name", NAMES)
def test_compiled_kernel_computes_what_the_torch_form_computes(name: str, reports: dict[str, Future[str]]) -> None:
    report = reports[name].result()
    assert f"{name}: passed" in report.splitlines(), report[-12000:]


def _calls(batch: int = 2) -> dict[str, tuple]:
    z = torch.randn(batch, 12, 500, device="cuda")
    projection, mixer = torch.randn(12, 3, device="cuda"), torch.randn(4, 7, device="cuda")
    poles, residues = -torch.rand(4, 16, device="cuda"), torch.randn(4, 16, device="cuda")
    ring, position = torch.zeros(batch, 4, 6, device="cuda"), torch.arange(batch, device="cuda")
    step = torch.randn(batch, 4, device="cuda")
    history = torch.zeros(batch, 12, 2, device="cuda")
    return {
        "causal_conv": (z, torch.randn(12, 128, device="cuda")),
        "gated_conv": (z, projection, mixer),
        "gated_modal_conv": (z, projection, poles, residues),
        "fir_step": (step, mixer, ring, position),
        "gated_product": (z,),
        "modal_conv": (z[:, :4], poles, residues),
        "modal_step": (step, poles, residues, torch.zeros(batch, 4, 16, device="cuda")),
        "linear_step": (step, torch.randn(6, 4, device="cuda")),
        "gated_linear_step": (step, torch.randn(6, 4, device="cuda"), torch.randn(6, 4, device="cuda")),
        "gated_conv_step": (z[..., 0].contiguous(), projection, mixer, history, ring, position),
        "gated_modal_step": (
            z[..., 0].contiguous(),
            projection,
            poles,
            residues,
            history,
            torch.zeros(batch, 4, 16, device="cuda"),
            position,
        ),
        "greedy_step": (step, torch.zeros(batch, dtype=torch.int64, device="cuda")),
        "rounded_rows": (z,),
        "rms_norm": (z, torch.randn(500, device="cuda")),
        "attention_step": (
            torch.randn(batch, 2, 3, 16, device="cuda"),
            torch.randn(16, 2, 16, device="cuda"),
            torch.randn(16, 2, 16, device="cuda"),
            torch.arange(batch, dtype=torch.int32, device="cuda")[:, None],
            position,
            torch.rand(8, device="cuda"),
        ),
        "selective_scan": (
            z,
            z.abs(),
            -torch.rand(12, 16, device="cuda"),
            *torch.randn(2, batch, 1, 16, 500, device="cuda").unbind(0),
        ),
        "rotary": (z[..., None, :], torch.arange(12, device="cuda")[None], torch.rand(250, device="cuda")),
    }


OPTIONS = {"attention_step": {"page_size": 8}}


@pytest.mark.parametrize("name", KERNELS)
def test_auto_takes_our_kernel_on_a_gpu(name: str) -> None:
    assert ops.explain(name, *_calls()[name], **OPTIONS.get(name, {})).backend in ("triton", "cuda")


@pytest.mark.parametrize("name", KERNELS)
def test_a_captured_call_replays_with_new_input(name: str) -> None:
    operator, arguments = partial(getattr(ops, name), **OPTIONS.get(name, {})), _calls()[name]
    operator(*arguments, backend="triton")
    kept = [tensor.clone() for tensor in arguments]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = operator(*arguments, backend="triton")
    for tensor, value in zip(arguments, kept, strict=True):
        tensor.copy_(value)
    arguments[0].normal_()
    kept[0] = arguments[0].clone()
    graph.replay()
    torch.testing.assert_close(_plain(y), _plain(operator(*kept, backend="torch")), rtol=1e-4, atol=1e-3)


def _plain(y: object) -> object:
    return y.codes.float() * y.inverse[..., None] if isinstance(y, ops.RoundedRows) else y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_tap_count_of_the_direct_path_is_exact(dtype: torch.dtype) -> None:
    for taps in range(2, 257):
        x, w = torch.randn(1, 4, 1000, device="cuda").to(dtype), torch.randn(4, taps, device="cuda").to(dtype)
        exact = ops.causal_conv(x.double(), w.double())
        error = (ops.causal_conv(x, w, backend="triton").double() - exact).norm() / exact.norm()
        assert error < (3e-6 if dtype == torch.float32 else 2.5e-3), f"{taps} taps: {error:.2e}"


@pytest.mark.parametrize("length", [8192, 262_144, 1_048_576, 8_388_608])
def test_long_filters_match_an_independent_transform(length: int) -> None:
    x, w = torch.randn(1, 1, length, device="cuda"), torch.randn(1, length, device="cuda") / length**0.5
    torch.cuda.reset_peak_memory_stats()
    y = ops.causal_conv(x, w)
    print(f"\n{length} taps: peak memory {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    n = 2 * length
    exact = torch.fft.ifft(torch.fft.fft(x.double(), n=n) * torch.fft.fft(w.double(), n=n), n=n).real[..., :length]
    assert (y.double() - exact).norm() / exact.norm() < 3e-6
