"""What the vendor backend hands to the vendor's libraries, tried with stand-ins that compute on the CPU."""

import sys
import types

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu

from subquad import ops
from subquad.ops import _capability, _vendor_backend, _vendor_libraries, dispatch
from subquad.ops.dispatch import Call
from tools.testing.oracle import assert_close


def _correlate(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    y = conv1d(pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=x.shape[1])
    return silu(y) if activation == "silu" else y


def _back_to_back(x: Tensor, projection: Tensor, mixer: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    p = _correlate(x, projection, x.new_zeros(x.shape[1]), "identity")
    g = p[:, 1::3] * p[:, 2::3]
    y = _correlate(g, mixer, g.new_zeros(g.shape[1]), "identity") + skip[:, None] * g
    return y, y * p[:, 0::3]


def _back_to_back_gradients(upstream: Tensor, *tensors: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors[:4]]
    with torch.enable_grad():
        y = _back_to_back(*leaves)[1]
    return list(torch.autograd.grad(y, leaves, upstream))


def _causal(x: Tensor, weight: Tensor) -> Tensor:
    return ops.causal_conv(x, weight, backend="torch")


def _centred(x: Tensor, weight: Tensor) -> Tensor:
    return ops.fft_conv(x, weight, backend="torch")


def _in_a_tile(x: Tensor, weight: Tensor, tile: int) -> Tensor:
    """Takes the filter as one of the tile's size, whose centre is the tile's."""
    sizes = x.shape[2:]
    full = torch.fft.irfft2(
        torch.fft.rfft2(x, s=(tile, tile)) * torch.fft.rfft2(weight, s=(tile, tile)), s=(tile, tile)
    )
    return full[..., tile // 2 : tile // 2 + sizes[0], tile // 2 : tile // 2 + sizes[1]]


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts stand-ins for both libraries in place; returns the names of the functions that were called."""
    called: list[str] = []

    def module(name: str, **functions) -> types.ModuleType:
        made = types.ModuleType(name)
        for each, function in functions.items():
            setattr(made, each, lambda *a, f=function, n=each: (called.append(n), f(*a))[1])
        monkeypatch.setitem(sys.modules, name, made)
        return made

    module("subquadratic_ops_torch")
    module("subquadratic_ops_torch.fft_causal_conv1d", fft_causal_conv1d=_causal)
    module("subquadratic_ops_torch.fft_conv1d", fft_conv1d=_centred)
    module("subquadratic_ops_torch.fft_conv2d", fft_conv2d=_centred)
    module("subquadratic_ops_torch.fused_fft_conv2d", fused_fft_conv2d=_in_a_tile)
    primitives = module(
        "primitives",
        causal_conv1d_fwd_primitive=_correlate,
        b2b_causal_conv1d_fwd_primitive=_back_to_back,
        b2b_causal_conv1d_bwd_primitive=_back_to_back_gradients,
    )
    monkeypatch.setattr(torch.ops, "cudnn", primitives, raising=False)
    monkeypatch.setattr(_vendor_backend, "runs_plainly", lambda *tensors: False)
    for name in ("without_cudnn", "without_cudnn_fft", "without_subquadratic"):
        monkeypatch.setattr(_vendor_libraries, name, lambda: None)
    return called


def _run(operator: str, *tensors: Tensor, **arguments):
    found = {i.operator: i for i in _vendor_backend.implementations()}
    return found[operator].run(*tensors, **arguments)


def test_short_filters_are_turned_and_shared_rows_repeated(stand_ins: list[str]) -> None:
    x, w, b = torch.randn(2, 6, 40).double(), torch.randn(3, 5).double(), torch.randn(6).double()
    y, state = _run("causal_conv", x, w, bias=b, skip=None, activation="silu", initial_state=None)
    exact, last = ops.causal_conv_with_state(x, w, bias=b, activation="silu")
    assert_close(y, exact, 1e-12)
    assert torch.equal(state, last)
    assert stand_ins == ["causal_conv1d_fwd_primitive"]


def test_long_causal_filters_go_to_the_fft(stand_ins: list[str]) -> None:
    x, w = torch.randn(2, 4, 400).double(), torch.randn(2, 300).double()
    y, _ = _run("causal_conv", x, w, bias=None, skip=None, activation=None, initial_state=None)
    assert_close(y, ops.causal_conv(x, w), 1e-12)
    assert stand_ins == ["fft_causal_conv1d"]


def test_the_gated_convolution_keeps_its_state(stand_ins: list[str]) -> None:
    z, p, w, s = (torch.randn(*shape).double() for shape in ((2, 12, 30), (12, 3), (4, 7), (4,)))
    arguments = {"skip": s, "pregate": True, "postgate": True, "initial_state": None}
    y, state = _run("gated_conv", z, p, w, **arguments)
    exact, last = ops.gated_conv_with_state(z, p, w, skip=s)
    assert_close(y, exact, 1e-12)
    for got, want in zip(state, last, strict=True):
        assert_close(got, want, 1e-12)
    assert stand_ins == ["b2b_causal_conv1d_fwd_primitive"]


def test_the_gated_convolution_takes_its_gradients_from_cudnn(stand_ins: list[str]) -> None:
    tensors = [torch.randn(*shape).double().requires_grad_() for shape in ((2, 12, 30), (12, 3), (4, 7), (4,))]
    arguments = {"pregate": True, "postgate": True, "initial_state": None}
    y, _ = _run("gated_conv", *tensors[:3], skip=tensors[3], **arguments)
    exact = ops.gated_conv(*tensors[:3], skip=tensors[3], backend="torch")
    upstream = torch.randn_like(exact)
    found, expected = (torch.autograd.grad(out, tensors, upstream) for out in (y, exact))
    for got, want in zip(found, expected, strict=True):
        assert_close(got, want, 1e-12)
    assert stand_ins == ["b2b_causal_conv1d_fwd_primitive", "b2b_causal_conv1d_bwd_primitive"]


@pytest.mark.parametrize("causal", [True, False])
def test_sequences_by_fft_take_a_skip(stand_ins: list[str], causal: bool) -> None:
    x, w, s = (torch.randn(*shape).double() for shape in ((2, 4, 50), (1, 4, 20), (4,)))
    y = _run("fft_conv", x, w, boundary=("zero",), causal=causal, skip=s)
    assert_close(y, ops.fft_conv(x, w[0], causal=causal, skip=s), 1e-12)
    assert stand_ins == ["fft_causal_conv1d" if causal else "fft_conv1d"]


@pytest.mark.parametrize(
    ("side", "taps", "taken"),
    [
        ((14, 14), (14, 14), "fused_fft_conv2d"),
        ((9, 16), (8, 31), "fused_fft_conv2d"),
        ((5, 16), (10, 32), "fused_fft_conv2d"),
        ((70, 20), (7, 8), "fft_conv2d"),
    ],
)
def test_images_are_centred_as_ours_are(
    stand_ins: list[str], side: tuple[int, int], taps: tuple[int, int], taken: str
) -> None:
    x, w = torch.randn(2, 3, *side), torch.randn(2, 3, *taps)
    y = _run("fft_conv", x, w, boundary=("zero", "zero"), causal=False, skip=None)
    assert_close(y, ops.fft_conv(x.double(), w.double()), 1e-5)
    assert stand_ins == [taken]


def _call(operator: str, **changes) -> Call:
    usual = {"dtype": torch.bfloat16, "device": "cuda", "batch": 1, "channels": 4, "length": 64, "taps": 7}
    return Call(operator, **{**usual, **changes})


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (_call("causal_conv", options=frozenset({"skip"})), "skip; the vendor's operator has no such argument"),
        (_call("causal_conv", taps=300, options=frozenset({"bias"})), "bias; the vendor's operator has no"),
        (_call("causal_conv", taps=1), "1 taps; accepted: 2 to 16777216"),
        (_call("causal_conv", dtype=torch.float64), "dtype float64; accepted: float32, float16, bfloat16"),
        (_call("causal_conv", device="cpu"), "the tensors are on cpu; accepted: cuda"),
        (_call("causal_conv", batch=0), "the call is empty"),
        (_call("gated_conv", projection_taps=40), "40 projection taps; accepted: 2 to 32"),
        (_call("gated_conv", projection_taps=3, options=frozenset({"no pregate"})), "no pregate; the vendor's"),
        (_call("gated_conv", projection_taps=3, taps=300), "300 taps; accepted: 2 to 256"),
        (_call("fft_conv", options=frozenset({"1d", "circular"})), "a circular boundary or three axes"),
        (_call("fft_conv", options=frozenset({"1d", "per-sample"})), "a filter a sample over one axis"),
        (_call("fft_conv", options=frozenset({"1d"}), taps=20000), "20000 taps; accepted: 1 to 16384"),
        (_call("fft_conv", options=frozenset({"2d"}), space=(8, 4096), space_taps=(1, 1)), "an image of 8 x 4096"),
        (_call("fft_conv", options=frozenset({"2d"}), space=(8, 8), space_taps=(8, 17)), "8 x 17 taps over 8 x 8"),
    ],
)
def test_what_the_vendor_cannot_do_is_refused_in_words(call: Call, words: str) -> None:
    found = {i.operator: i for i in _vendor_backend.implementations()}
    assert (found[call.operator].refusal(call) or "").startswith(words)


def test_what_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vendor_libraries, "without_subquadratic", lambda: "subquadratic_ops_torch is not installed; x")
    for name in ("without_cudnn", "without_cudnn_fft"):
        monkeypatch.setattr(_vendor_libraries, name, lambda: None)
    assert _vendor_backend.unavailable() is None
    assert _vendor_backend.missing() == (
        "no fft_conv over two axes or not causal: subquadratic_ops_torch is not installed; x",
    )
    found = {i.operator: i for i in _vendor_backend.implementations()}
    assert found["fft_conv"].refusal(_call("fft_conv", options=frozenset({"1d", "causal"}))) is None
    assert "not installed" in (found["fft_conv"].refusal(_call("fft_conv", options=frozenset({"1d"}))) or "")


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("capability", "backend", "words"),
    [
        ((9, 0), "vendor", "first in the measured order"),
        ((8, 0), "torch", "vendor: faster by measurement on compute capability 9.0 alone; the GPU has 8.0"),
    ],
)
def test_auto_takes_a_long_filter_to_the_vendor_where_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], backend: str, words: str
) -> None:
    monkeypatch.setattr(dispatch, "_usable", dispatch._usable.__wrapped__)
    monkeypatch.setattr(_capability, "_capability", lambda index: capability)
    long = _call("causal_conv", taps=4096, length=4096)
    for call in (long, _call("fft_conv", options=frozenset({"1d", "causal"}))):
        explanation = dispatch.choose(call, "auto")[1]
        assert explanation.backend == backend
        assert words in explanation.reason


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("dtype", "backend"), [(torch.bfloat16, "vendor"), (torch.float32, "torch"), (torch.float16, "torch")], ids=str
)
def test_auto_keeps_very_long_filters_in_torch_where_the_vendor_is_less_exact(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, backend: str
) -> None:
    monkeypatch.setattr(dispatch, "_usable", dispatch._usable.__wrapped__)
    monkeypatch.setattr(_capability, "_capability", lambda index: (9, 0))
    call = _call("fft_conv", options=frozenset({"1d", "causal"}), taps=1 << 17, length=1 << 17, dtype=dtype)
    assert dispatch.choose(call, "auto")[1].backend == backend


@pytest.mark.parametrize(
    ("backend_version", "functions", "words"),
    [
        (91500, (), "cuDNN 9.15 is loaded; accepted: 9.24 or newer; pip install"),
        (92800, ("causal_conv1d_forward",), "nvidia-cudnn-frontend has no b2b_causal_conv1d_forward; accepted: 1.27"),
        (92800, ("causal_conv1d_forward", "b2b_causal_conv1d_forward"), None),
    ],
)
def test_the_loaded_cudnn_is_held_to_a_version(
    monkeypatch: pytest.MonkeyPatch, backend_version: int, functions: tuple[str, ...], words: str | None
) -> None:
    made = types.ModuleType("cudnn")
    made.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    made.backend_version = lambda: backend_version  # type: ignore[attr-defined]
    for name in functions:
        setattr(made, name, None)
    monkeypatch.setitem(sys.modules, "cudnn", made)
    monkeypatch.setitem(sys.modules, "cudnn.ops.causal_conv1d", types.ModuleType("cudnn.ops.causal_conv1d"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    problem = _vendor_libraries.without_cudnn.__wrapped__()
    assert problem is None if words is None else (problem or "").startswith(words)
