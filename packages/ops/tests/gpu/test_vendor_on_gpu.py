"""The vendor's libraries behind backend="vendor": parity with float64 torch where they are installed."""

import pytest
import torch
from torch import Tensor

from subquad import ops
from subquad.ops import _vendor_libraries
from subquad.ops.dispatch import load_backend

_PROBLEM = load_backend("vendor")[0]
_WITHOUT_FFT = _vendor_libraries.without_subquadratic()
_ALLOWED = {torch.float32: 5e-6, torch.bfloat16: 5e-3}  # of the norm, an output rounded once has 1.7e-3

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]
needs_cudnn = pytest.mark.skipif(_vendor_libraries.without_cudnn() is not None, reason=str(_PROBLEM))
needs_fft = pytest.mark.skipif(_WITHOUT_FFT is not None, reason=str(_WITHOUT_FFT))
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def _random(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device="cuda") * scale).to(dtype)


def _error(got: Tensor, exact: Tensor) -> float:
    return float((got.detach().double() - exact.detach()).norm() / exact.detach().norm())


def _hold(name: str, call, *tensors: Tensor, gradients: bool = True) -> None:
    """Compares call(*tensors, backend="vendor"), its replay in a graph and its gradients with float64 torch."""
    allowed = _ALLOWED[tensors[0].dtype]
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    wide = [t.detach().double().requires_grad_() for t in tensors]
    exact = call(*wide, backend="torch")
    with torch.no_grad():
        errors = {"output": _error(call(*tensors, backend="vendor"), exact)}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = call(*tensors, backend="vendor")
        captured.zero_()
        graph.replay()
        errors["replay"] = _error(captured, exact)
    y = call(*leaves, backend="vendor")
    errors["recorded output"] = _error(y.detach(), exact)
    if gradients:
        upstream = torch.randn_like(exact).to(y.dtype)
        found = torch.autograd.grad(y, leaves, upstream)
        expected = torch.autograd.grad(exact, wide, upstream.double())
        errors |= {f"gradient {i}": _error(a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True))}
    print(f"\n{name} {str(tensors[0].dtype)[6:]}:", ", ".join(f"{key} {value:.1e}" for key, value in errors.items()))
    assert max(errors.values()) <= allowed, errors


def test_the_libraries_are_usable_or_say_what_to_install() -> None:
    problem, offered = load_backend("vendor")
    print(f"\nvendor: {problem or sorted(i.operator for i in offered)}")
    assert problem is None or "subquad-ops[vendor]" in problem


# cuDNN compiles a kernel for each number of taps, type and direction, in six to nine seconds: one case of each kind.
@needs_cudnn
@pytest.mark.parametrize(("taps", "dtype", "gradients"), [(7, torch.bfloat16, True), (128, torch.float32, False)])
def test_causal_conv(taps: int, dtype: torch.dtype, gradients: bool) -> None:
    x, w = _random(2, 16, 1000, dtype=dtype), _random(4, taps, dtype=dtype, scale=taps**-0.5)
    b = _random(16, dtype=dtype)

    def call(x: Tensor, w: Tensor, b: Tensor, backend: str) -> Tensor:
        return ops.causal_conv(x, w, bias=b, backend=backend)

    _hold(f"causal, {taps} taps", call, x, w, b, gradients=gradients)


@needs_cudnn
@pytest.mark.parametrize(("taps", "dtype", "gradients"), [(7, torch.bfloat16, True), (128, torch.float32, False)])
def test_gated_conv(taps: int, dtype: torch.dtype, gradients: bool) -> None:
    z, p = _random(2, 48, 1000, dtype=dtype), _random(48, 3, dtype=dtype)
    w, s = _random(16, taps, dtype=dtype, scale=taps**-0.5), _random(16, dtype=dtype)

    def call(z: Tensor, p: Tensor, w: Tensor, s: Tensor, backend: str) -> Tensor:
        return ops.gated_conv(z, p, w, skip=s, backend=backend)

    _hold(f"b2b, 3 + {taps} taps", call, z, p, w, s, gradients=gradients)
    _, state = ops.gated_conv_with_state(z, p, w, skip=s, backend="vendor")
    _, exact = ops.gated_conv_with_state(z.double(), p.double(), w.double(), skip=s.double(), backend="torch")
    assert max(_error(a, b) for a, b in zip(state, exact, strict=True)) <= _ALLOWED[dtype]


@needs_fft
@both_dtypes
@pytest.mark.parametrize(("taps", "length"), [(1, 700), (300, 4096), (4096, 4096), (20000, 32768)])
def test_causal_fft_conv(taps: int, length: int, dtype: torch.dtype) -> None:
    x, w = _random(2, 8, length, dtype=dtype), _random(8, taps, dtype=dtype, scale=taps**-0.5)

    def call(x: Tensor, w: Tensor, backend: str) -> Tensor:
        return ops.fft_conv(x, w, causal=True, backend=backend)

    _hold(f"causal FFT, {taps} of {length}", call, x, w)
    if taps > 256:
        _hold(f"long causal, {taps} of {length}", ops.causal_conv, x, w)


@needs_fft
@both_dtypes
@pytest.mark.parametrize(("taps", "length"), [(8, 100), (255, 1000), (1000, 1000), (2000, 1001)])
def test_centred_fft_conv(taps: int, length: int, dtype: torch.dtype) -> None:
    x, w = _random(2, 8, length, dtype=dtype), _random(8, taps, dtype=dtype, scale=taps**-0.5)
    _hold(f"FFT 1D, {taps} of {length}", ops.fft_conv, x, w)


@needs_fft
@both_dtypes
@pytest.mark.parametrize(
    ("side", "taps"), [((14, 14), (14, 14)), ((31, 20), (8, 9)), ((64, 64), (127, 64)), ((100, 60), (100, 61))]
)
@pytest.mark.parametrize("filters", [1, 2])
def test_image_conv(side: tuple[int, int], taps: tuple[int, int], filters: int, dtype: torch.dtype) -> None:
    x, w = _random(2, 8, *side, dtype=dtype), _random(filters, 8, *taps, dtype=dtype, scale=taps[0] ** -1.0)

    def call(x: Tensor, w: Tensor, backend: str) -> Tensor:
        return ops.fft_conv(x, w, backend=backend)

    _hold(f"FFT 2D, {taps} of {side}, {filters} filters", call, x, w)


@needs_cudnn
def test_calls_compile_without_a_break() -> None:
    x, w, z, p = (_random(*s, dtype=torch.bfloat16) for s in ((2, 16, 256), (16, 7), (2, 48, 256), (48, 3)))

    def both(x: Tensor, w: Tensor, z: Tensor, p: Tensor) -> Tensor:
        return ops.causal_conv(x, w, backend="vendor") + ops.gated_conv(z, p, w, backend="vendor")

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, w, z, p), both(x, w, z, p))


@needs_fft
@pytest.mark.parametrize(("shape", "taps"), [((2, 8, 512), (8, 300)), ((2, 8, 20, 20), (8, 7, 7))], ids=str)
def test_fft_calls_compile_without_a_break(shape: tuple[int, ...], taps: tuple[int, ...]) -> None:
    x, w = _random(*shape, dtype=torch.float32), _random(*taps, dtype=torch.float32)

    def run(x: Tensor, w: Tensor) -> Tensor:
        y = ops.fft_conv(x, w, backend="vendor")
        return y + ops.fft_conv(x, w, causal=True, backend="vendor") if x.dim() == 3 else y

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, w), run(x, w))
