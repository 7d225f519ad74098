"""On a GPU: a few channels at a time, with kernels and with less memory; and derivatives that torch.func takes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subquad import ops
from tools.testing.oracle import assert_as_exact_as, assert_close

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]

CHANNELS, LENGTH = 24, 20_000
CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "causal_conv, 7 taps": (ops.causal_conv, ((2, CHANNELS, LENGTH), (CHANNELS, 7))),
    "causal_conv, 128 taps": (ops.causal_conv, ((2, CHANNELS, LENGTH), (CHANNELS // 3, 128))),
    "causal_conv, 4,000 taps": (ops.causal_conv, ((2, CHANNELS, LENGTH), (CHANNELS, 4000))),
    "gated_conv": (ops.gated_conv, ((2, 3 * CHANNELS, LENGTH), (3 * CHANNELS, 3), (CHANNELS, 128))),
    "gated_modal_conv": (
        ops.gated_modal_conv,
        ((2, 3 * CHANNELS, LENGTH), (3 * CHANNELS, 3), (CHANNELS, 16), (CHANNELS, 16)),
    ),
}


def _inputs(name: str, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    operator, shapes = CASES[name]
    stream, *filters = [torch.randn(shape, device="cuda") / max(1, shape[-1]) ** 0.5 for shape in shapes]
    stream = stream * LENGTH**0.5
    if operator is ops.gated_modal_conv:  # the poles' logarithms
        filters[1] = -filters[1].abs()
        return [stream.to(dtype), filters[0].to(dtype), *filters[1:]]
    return [x.to(dtype) for x in (stream, *filters)]


def _with_gradients(operator: Callable[..., Tensor], inputs: list[Tensor], chunk_size: int | None) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = operator(*leaves, chunk_size=chunk_size)
    upstream = torch.linspace(-1, 1, y.shape[-1], device="cuda").expand(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_a_few_channels_at_a_time_are_as_exact_as_all(name: str, dtype: torch.dtype) -> None:
    operator, inputs = CASES[name][0], _inputs(name, dtype)
    oracle = _with_gradients(operator, [x.double() for x in inputs], None)
    whole = _with_gradients(operator, inputs, None)
    for chunk_size in (1, 9):
        for exact, plain, got in zip(oracle, whole, _with_gradients(operator, inputs, chunk_size), strict=True):
            assert_as_exact_as(f"{name}, {chunk_size} channels", exact, plain, got)


@pytest.mark.parametrize("name", ["causal_conv, 4,000 taps", "gated_conv", "gated_modal_conv"])
def test_a_few_channels_at_a_time_lower_the_peak(name: str) -> None:
    operator, inputs = CASES[name][0], _inputs(name, torch.float32)
    peaks = []
    for chunk_size in (None, 2):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.no_grad():
            operator(*inputs, chunk_size=chunk_size, backend="torch")
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 0.7 * peaks[0], peaks


@pytest.mark.parametrize("name", CASES)
def test_forward_derivatives_are_those_of_the_torch_form(name: str) -> None:
    """Kernels have no forward derivative: under ``jvp`` they refuse, and "auto" takes the form that has one."""
    operator, inputs = CASES[name][0], [x[..., :4000] for x in _inputs(name, torch.float32)]
    change = [torch.randn_like(x) for x in inputs]
    _, got = torch.func.jvp(operator, tuple(inputs), tuple(change))
    wide = [[x.double() for x in values] for values in (inputs, change)]
    _, exact = torch.func.jvp(operator, tuple(wide[0]), tuple(wide[1]))
    assert float(exact.abs().max()) > 0
    assert_close(got.double(), exact, 1e-4)
    if name != "causal_conv, 4,000 taps":
        for backend in ("cuda", "triton"):
            with pytest.raises(ops.BackendUnavailable, match=r"torch\.func or forward-mode"):
                torch.func.jvp(lambda *x, b=backend: operator(*x, backend=b), tuple(inputs), tuple(change))
