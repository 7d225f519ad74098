"""A call of the CUDA library is decided once for all calls that look the same, and for no other; on any machine."""

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from subquad import ops
from subquad.ops import _cuda_backend, _cuda_streams, _known_calls, _scaled_mm_backend, dispatch
from subquad.ops._known_calls import implementation_for
from subquad.ops.dispatch import Call, Implementation
from subquad.ops.fir_step import ring as rings

pytestmark = pytest.mark.usefixtures("unchecked", "on_cuda")
ROWS, TAPS, MODES = torch.randn(2, 70, 16), torch.randn(16, 7), torch.randn(16, 4)
Z, PROJECTION, SKIP = torch.randn(2, 48, 70), torch.randn(48, 3), torch.randn(16)
WEIGHT, QKV, POSITION, TURNS = torch.randn(24, 16), torch.randn(2, 70, 2, 3, 8), torch.arange(70)[None], torch.randn(4)
FP8 = torch.float8_e4m3fn
BYTES, INVERSE, ROW_SCALES = torch.zeros(2, 70, 16).to(FP8), torch.ones(2, 70), torch.ones(24)
KEYS, RING, SEEN = torch.zeros(2, 70, 2, 8), torch.zeros(2, 16, 6), torch.zeros(2, dtype=torch.int64)
OF_ONE_DTYPE = ("gated_product", "gated_linear", "rounded_product", "fp8_linear")  # refuse weights of another
# Of each operator: the call, and its tensors; those behind the first are held to it.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "rms_norm": (ops.rms_norm, (ROWS, SKIP)),
    "rms_norm_of_sum": (ops.rms_norm_of_sum, (ROWS, ROWS, SKIP)),
    "gated_product": (ops.gated_product, (ROWS, ROWS)),
    "gated_linear": (ops.gated_linear, (ROWS, WEIGHT, WEIGHT)),
    "rotary": (ops.rotary, (QKV[:, :, :, 0], POSITION, TURNS)),
    "rotary_into": (ops.rotary_into, (QKV, POSITION, TURNS, KEYS, KEYS.clone())),
    "gated_conv": (lambda z, p, m, s: ops.gated_conv(z, p, m, skip=s), (Z, PROJECTION, TAPS, SKIP)),
    "gated_conv after a state": (
        lambda z, p, m, a, b: ops.gated_conv_with_state(z, p, m, initial_state=ops.GatedConvState(a, b)),
        (Z, PROJECTION, TAPS, torch.randn(2, 48, 2), torch.randn(2, 16, 6)),
    ),
    "gated_modal_conv": (
        lambda z, p, a, b, s: ops.gated_modal_conv_with_state(z, p, a, b, skip=s),
        (Z, PROJECTION, MODES, MODES, SKIP),
    ),
    "rounded_rows": (ops.rounded_rows, (ROWS,)),
    "rounded_rows of channels": (lambda x: ops.rounded_rows(x, layout="BHL"), (Z,)),
    "rounded_norm": (lambda x, scale: ops.rounded_norm(x, ops.StepNorm(scale, 1e-6, "vortex")), (ROWS, SKIP)),
    "rounded_norm of a sum": (
        lambda x, addend, scale: ops.rounded_norm(x, ops.StepNorm(scale, 1e-6, "standard"), addend=addend),
        (ROWS, ROWS, SKIP),
    ),
    "rounded_product": (lambda gate, value: ops.rounded_product(gate, value, activation="gelu"), (ROWS, ROWS)),
    "fp8_linear": (
        lambda codes, inverse, weight, scale, kept, bias: ops.fp8_linear(
            ops.RoundedRows(codes, inverse), weight, weight_scale=scale, weight_inverse=kept, bias=bias
        ),
        (BYTES, INVERSE, WEIGHT.to(FP8), ROW_SCALES, ROW_SCALES, ROW_SCALES),
    ),
    "fill_ring": (lambda ring, history, seen: ops.fill_ring(ring, history, seen, 70), (RING, RING.clone(), SEEN)),
}


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tensors pass for ones on a GPU, and forgets what was decided."""
    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr(Tensor, "get_device", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(dispatch, "capturing", lambda _: False)
    monkeypatch.setattr(_known_calls, "_known", lambda known={}: known)
    _known_calls._known().clear()


class _Library:
    """What was decided, and what the library was then given: numbers alone, for addresses are others each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decided: list[Call] = []
        self.given: list[tuple[object, ...]] = []
        backends = (_cuda_backend, _scaled_mm_backend)
        offered = {each.operator: each for backend in backends for each in backend.implementations()}
        kernel = rings._kernel

        def choose(call: Call, backend: str) -> tuple[Implementation | None, None]:
            self.decided.append(call)
            return (offered[call.operator] if backend == "auto" else None), None

        def counted(*tensors: Tensor) -> Implementation | None:
            self.decided.append(Call("fill_ring", torch.float32, "cuda", 1, 1, 1, 1))
            return kernel(*tensors)

        monkeypatch.setattr(dispatch, "choose", choose)
        monkeypatch.setattr(dispatch, "load_backend", lambda _: (None, ()))
        monkeypatch.setattr(rings, "_kernel", counted)
        monkeypatch.setattr(_cuda_streams, "load_cuda_library", lambda: self)
        monkeypatch.setattr(torch, "_scaled_mm", self.multiply)

    def multiply(self, left: Tensor, right: Tensor, **options: Any) -> Tensor:
        looks = {name: value.shape if isinstance(value, Tensor) else value for name, value in options.items()}
        self.given.append(("scaled_mm", left.shape, right.shape, tuple(looks.items())))
        return torch.empty(left.shape[0], right.shape[1], dtype=options["out_dtype"])

    def enqueue(self, name: str, x: Tensor, *arguments: Any) -> None:
        structures = [getattr(each, "_obj", each) for each in arguments]
        numbers: list[object] = [name]
        for each in structures:
            if isinstance(each, ctypes.Structure):
                numbers += [
                    getattr(each, field) is None if kind is ctypes.c_void_p else getattr(each, field)
                    for field, kind in each._fields_  # pyright: ignore[reportAssignmentType]
                ]
            else:
                numbers.append(each if isinstance(each, int) and each < 1 << 20 else each is None)
        self.given.append(tuple(numbers))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> _Library:
    return _Library(monkeypatch)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_looks_the_same_is_decided_once_and_runs_the_same(name: str, library: _Library) -> None:
    call, tensors = CALLS[name]
    with torch.enable_grad():
        expected = call(*tensors)  # decided each time
        call(*tensors)
    assert len(library.decided) == 2
    with torch.no_grad():
        got = [call(*tensors) for _ in range(3)]
    assert len(library.decided) == 3
    assert len(set(library.given)) == 1
    assert len(library.given) == 5

    def shapes(result: Any) -> Any:
        return [shapes(each) for each in result] if isinstance(result, tuple) else getattr(result, "shape", None)

    assert all(shapes(each) == shapes(expected) for each in got)


@pytest.mark.parametrize("name", CALLS)
def test_a_weight_of_another_dtype_is_seen(name: str, library: _Library) -> None:
    call, tensors = CALLS[name]
    weights = [nn.Parameter(t.clone(), requires_grad=t.dtype == torch.float32) for t in tensors[1:]]
    for place, weight in enumerate(weights):
        if not weight.is_floating_point() or name in OF_ONE_DTYPE:
            continue
        with torch.no_grad():
            call(tensors[0], *weights)
            decided = len(library.decided)
            weight.data = weight.data.bfloat16()  # the same object
            call(tensors[0], *weights)
        assert len(library.decided) == decided + 1, place
        weight.data = weight.data.float()


@pytest.mark.parametrize("name", CALLS)
def test_what_does_not_fit_is_refused_after_a_call_that_did(name: str, library: _Library) -> None:
    call, tensors = CALLS[name]
    with torch.no_grad():
        call(*tensors)
        for place in range(1, len(tensors)):
            for spoil, error in (
                (lambda t: t.to(torch.complex64), ops.DtypeMismatch),
                (lambda t: torch.cat([t, t, t]), ops.ShapeMismatch),
                (lambda t: t[..., None], ops.ShapeMismatch),
                (lambda t: t.to("meta"), ops.DeviceMismatch),
            ):
                spoiled = [spoil(t) if place == index else t for index, t in enumerate(tensors)]
                with pytest.raises(error):
                    call(*spoiled)
        assert len(library.given) == 1


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("rms_norm", {"eps": -1.0}),
        ("rms_norm", {"form": "other"}),
        ("rms_norm", {"form": ["standard"]}),
        ("gated_product", {"activation": "silu"}),
        ("gated_linear", {"activation": ["gelu"]}),
        ("rotary", {"scale": 0.0}),
        ("rotary_into", {"scale": -2.0}),
    ],
)
def test_an_option_that_is_none_is_refused_after_a_call_that_did_not_have_it(
    name: str, changed: dict[str, Any], library: _Library
) -> None:
    call, tensors = CALLS[name]
    with torch.no_grad():
        call(*tensors)
        with pytest.raises(ops.ArgumentOutOfRange):
            call(*tensors, **changed)


def test_another_layout_and_piecewise_channels_are_no_known_call(library: _Library) -> None:
    square = torch.randn(2, 48, 48)
    with torch.no_grad():
        for layout in ("BHL", "BLH", "BHL", "BLH"):
            ops.gated_conv(square, PROJECTION, TAPS, layout=layout)
            ops.gated_modal_conv(square, PROJECTION, MODES, MODES, layout=layout)
        assert len(library.decided) == 4
        ops.gated_conv(square, PROJECTION, TAPS, chunk_size=4)
        assert len(library.given) == 8 + 4
        with pytest.raises(ops.ArgumentOutOfRange, match="chunk_size is 0"):
            ops.gated_conv(square, PROJECTION, TAPS, chunk_size=0)


@pytest.mark.parametrize("kind", [lambda t: t, lambda t: nn.Parameter(t, requires_grad=False)], ids=["plain", "stored"])
def test_parts_of_a_cache_that_share_memory_are_refused_after_parts_that_do_not(
    kind: Callable[[Tensor], Tensor], library: _Library
) -> None:
    keys, ring = kind(KEYS), kind(RING)
    with torch.no_grad():
        ops.rotary_into(QKV, POSITION, TURNS, keys, keys)
        ops.fill_ring(ring, RING, SEEN)
        for other in (torch.zeros(1, 1, 2, 8).expand(2, 70, 2, 8), KEYS.transpose(2, 3).contiguous().transpose(2, 3)):
            with pytest.raises(ops.ShapeMismatch):
                ops.rotary_into(QKV, POSITION, TURNS, kind(other), keys)
        with pytest.raises(ops.ShapeMismatch, match="share memory"):
            ops.fill_ring(kind(torch.zeros(1, 16, 6).expand(2, 16, 6)), RING, SEEN)
    assert len(library.given) == 2


def test_a_state_of_its_own_memory_is_not_copied(library: _Library, monkeypatch: pytest.MonkeyPatch) -> None:
    tails: list[int] = []
    monkeypatch.setattr(library, "enqueue", lambda name, x, stream, taps, before, tail, *rest: tails.append(tail))
    with torch.no_grad():
        _, state = ops.gated_conv_with_state(Z, PROJECTION, TAPS)
        _, short = ops.gated_conv_with_state(Z[..., :4], PROJECTION, TAPS)
    assert state.mixer.data_ptr() == tails[0]
    assert short.mixer.shape == (2, 16, 6)  # joined with what was before
    assert short.mixer.data_ptr() != tails[1]
    assert state.projection.data_ptr() != Z.data_ptr() + 68 * 4  # not the stream's


class _Decisions:
    """Decides with an implementation, and counts."""

    def __init__(self, plainly: Callable[..., str] | None = lambda: "plainly") -> None:
        self.count = 0
        self.offered = Implementation("cuda", "rms_norm", lambda _: None, lambda: "asking", plainly=plainly)

    def __call__(self, *arguments: object) -> Implementation | None:
        self.count += 1
        return self.offered


def test_what_traces_records_or_transforms_is_decided_each_time_and_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    decide, x = _Decisions(), torch.ones(3)

    def form(x: Tensor) -> str:
        found = implementation_for(decide, (x,))
        assert found is not None
        return found.run()

    def within(x: Tensor) -> Tensor:
        assert form(x) == "asking"
        return x

    with torch.no_grad():
        assert [form(x), form(x)] == ["plainly", "plainly"]
        assert decide.count == 1
        torch.func.vmap(within)(torch.ones(2, 3))
        torch.func.jvp(within, (x,), (x,))
        with torch.autograd.forward_ad.dual_level():
            within(x)
        within(nn.Parameter(x))
        with FakeTensorMode() as mode:
            within(mode.from_tensor(torch.ones(3)))
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        within(x)
        monkeypatch.undo()
    assert decide.count == 7


def test_the_current_device_is_no_part_of_a_decision_but_the_tensors_place_is(monkeypatch: pytest.MonkeyPatch) -> None:
    decide, x = _Decisions(), torch.ones(3)
    with torch.no_grad():
        first = implementation_for(decide, (x,))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)  # the library enters the device of its input
        assert implementation_for(decide, (x,)) is first
        assert decide.count == 1
        monkeypatch.setattr(Tensor, "is_cuda", False)
        assert implementation_for(decide, (x,)) is decide.offered
        assert decide.count == 2


def test_only_forms_that_run_plainly_are_kept() -> None:
    decide, refuse = _Decisions(plainly=None), _Decisions()
    refuse.offered = None  # type: ignore[assignment]
    with torch.no_grad():
        for _ in range(2):
            assert implementation_for(decide, (torch.ones(3),)) is decide.offered
            assert implementation_for(refuse, (torch.ones(3),)) is None
    assert (decide.count, refuse.count) == (2, 2)


def test_missing_tensors_and_options_are_told_apart() -> None:
    decide, x = _Decisions(), torch.ones(3)
    looks: list[tuple[tuple[Tensor | None, ...], tuple[object, ...]]] = [
        ((x,), ()),
        ((x, None), ()),
        ((x, None, x), ()),
        ((x, x, None), ()),
        ((x, x.bfloat16(), None), ()),
        ((x, x), ("vortex",)),
        ((x, x), ("standard",)),
        ((x, x[:2]), ("standard",)),
        ((x, x.to("meta")), ("standard",)),
    ]
    with torch.no_grad():
        for tensors, options in [*looks, *looks]:
            implementation_for(decide, tensors, *options)
        other = _Decisions()
        implementation_for(other, (x,))
    assert decide.count == len(looks)
    assert other.count == 1


def test_memory_is_bounded_and_what_is_no_tensor_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_known_calls, "_MOST", 3)
    decide = _Decisions()
    with torch.no_grad():
        for length in range(1, 9):
            implementation_for(decide, (torch.ones(length),))
            assert len(_known_calls._known()) <= 3
        for wrong in (None, 7):
            with pytest.raises(ops.DtypeMismatch, match="and no tensor"):
                ops.rms_norm(wrong, torch.ones(3))  # type: ignore[arg-type]
        with pytest.raises(ops.DtypeMismatch, match="scale is a list and no tensor"):
            ops.rms_norm(torch.ones(3), [1.0, 1.0, 1.0])  # type: ignore[arg-type]
