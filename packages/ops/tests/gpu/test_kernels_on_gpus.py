"""Kernels on the second of two GPUs while the first is the current one."""

import pytest
import torch
from torch.testing import assert_close

from packages.ops.tests.gpu.test_kernels_on_gpu import KERNELS, OPTIONS, _calls, _plain
from subquad import ops
from subquad.ops.dispatch import AUTO_ON_CUDA

pytestmark = [pytest.mark.multi_gpu, pytest.mark.usefixtures("unchecked")]


def _arguments(name: str) -> tuple[torch.Tensor, ...]:
    with torch.cuda.device(1):
        return _calls()[name]


@pytest.mark.parametrize("backend", ["triton", "auto"])
@pytest.mark.parametrize("name", sorted({*KERNELS, *AUTO_ON_CUDA} - {"fp8_linear", "fft_conv", "gated_linear"}))
def test_a_call_runs_where_its_tensors_are(name: str, backend: str) -> None:
    arguments = _arguments(name)
    own = [tensor.clone() for tensor in arguments]
    y = getattr(ops, name)(*arguments, backend=backend, **OPTIONS.get(name, {}))
    expected = getattr(ops, name)(*own, backend="torch", **OPTIONS.get(name, {}))
    assert torch.cuda.current_device() == 0
    assert_close(_plain(y), _plain(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["causal_conv", "gated_conv", "gated_modal_conv", "modal_conv", "selective_scan"])
def test_a_gradient_is_computed_where_its_tensors_are(name: str) -> None:
    leaves = [tensor.clone().requires_grad_() for tensor in _arguments(name)]
    found, expected = (
        torch.autograd.grad(getattr(ops, name)(*leaves, backend=backend).square().sum(), leaves)
        for backend in ("triton", "torch")
    )
    for one, other in zip(found, expected, strict=True):
        assert one.device == other.device == torch.device("cuda", 1)
        assert_close(one, other, rtol=1e-3, atol=1e-2 * float(other.abs().max()))


def test_rings_are_turned_where_they_are() -> None:
    history, position = torch.randn(3, 4, 6, device="cuda:1"), torch.tensor([1, 8, 30], device="cuda:1")
    ring = ops.ring_from_history(history, position)
    assert torch.equal(ring.cpu(), ops.ring_from_history(history.cpu(), position.cpu()))


@pytest.mark.parametrize("rows", [1, 16, 1024])
def test_bfloat16_products_run_where_their_tensors_are(rows: int) -> None:
    x, gate, value = (torch.randn(size, 256, device="cuda:1").bfloat16() for size in (rows, 320, 320))
    for name in ("gated_linear", "gated_linear_step") if rows <= 64 else ("gated_linear",):
        expected = getattr(ops, name)(x.double(), gate.double(), value.double(), backend="torch")
        for _ in range(2):  # the second call finds what the first has kept
            y = getattr(ops, name)(x, gate, value, backend="cuda")
            assert y.device == x.device
            assert_close(y.double(), expected, rtol=2e-2, atol=1e-2 * float(expected.abs().max()))
    y, expected = ops.linear_step(x[:64], gate, backend="cuda"), x[:64].double() @ gate.double().t()
    assert_close(y.double(), expected, rtol=2e-2, atol=1e-2 * float(expected.abs().max()))
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("input_scale", [None, 8.0])
def test_rounded_products_run_where_their_tensors_are(input_scale: float | None) -> None:
    x, weight = torch.randn(17, 64, device="cuda:1").bfloat16(), torch.randn(48, 64, device="cuda:1")
    scales = {"input_scale": None if input_scale is None else torch.tensor(input_scale, device="cuda:1")}
    scales["weight_scale"] = torch.tensor(16.0, device="cuda:1") if input_scale else ops.row_scales(weight)[:, 0]
    y, expected = (ops.fp8_linear(x, weight, **scales, backend=backend) for backend in ("auto", "torch"))
    assert_close(y, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))
