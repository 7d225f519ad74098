"""Which calls the CUDA library's kernels over rows take, and what they are given; needs neither GPU nor library."""

import ctypes
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.ops import _cuda_library, _cuda_rows, _cuda_streams, dispatch
from subquad.ops._cuda_backend import implementations
from subquad.ops._cuda_interface import RotaryArguments, RowsArguments, TurnArguments
from subquad.ops.dispatch import Call, Implementation
from subquad.ops.fir_step import ring as rings
from subquad.ops.linear_step.linear_step import OTHER_DTYPE

NORM = Call("rms_norm", torch.bfloat16, "cuda", batch=1, channels=4096, length=8000, taps=0)
ROTARY = replace(NORM, operator="rotary", batch=2)
FIR = replace(NORM, operator="fir_step", batch=4, taps=7)
GATED = replace(NORM, operator="gated_linear", inputs=4096, channels=11_264)
OPERATORS = ("rms_norm", "gated_product", "rotary", "rounded_rows")


def refusal(call: Call) -> str | None:
    return next(offer.refusal(call) for offer in implementations() if offer.operator == call.operator)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_are_taken_before_triton_takes_them(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    others = (Implementation("triton", name, lambda call: None, lambda *_: None),)
    monkeypatch.setattr(
        dispatch, "load_backend", lambda backend: (None, implementations() if backend == "cuda" else others)
    )
    call = replace(NORM, operator=name, dtype=dtype)
    assert dispatch.choose(call, "auto")[1].backend == "cuda"
    assert dispatch.choose(replace(call, gradient=True), "auto")[1].backend == "triton"
    monkeypatch.setattr(
        dispatch, "load_backend", lambda backend: ("no file", ()) if backend == "cuda" else (None, others)
    )
    assert dispatch.choose(call, "auto")[1].backend == "triton"


@pytest.mark.parametrize(("inputs", "rows"), [(1920, 128), (2048, 128), (2056, 768), (8192, 768)])
def test_auto_leaves_few_rows_to_two_products(inputs: int, rows: int) -> None:
    (fused,) = (offer for offer in implementations() if offer.operator == "gated_linear")
    assert fused.unmeasured is not None
    assert fused.unmeasured(replace(GATED, inputs=inputs, length=rows)) is None
    assert fused.unmeasured(replace(GATED, inputs=inputs, length=rows - 1)) == (
        f"{rows - 1} rows; two products were faster below {rows}"
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (replace(NORM, device="cpu"), "the tensors are on cpu; accepted: cuda"),
        (replace(NORM, dtype=torch.float64), "dtype float64; accepted: float32, bfloat16, float16"),
        (replace(NORM, gradient=True), "a gradient is wanted; accepted: calls without"),
        (replace(NORM, length=0), "the call is empty"),
        (replace(NORM, length=2**31), "rows; accepted: up to"),
        (replace(NORM, channels=24_584), "24584 channels; accepted: 1 to 24576"),
        (replace(NORM, channels=8193), "8193 channels; accepted: beyond 8192 multiples of 8"),
        (replace(NORM, operator="rounded_rows", channels=8193), "accepted: beyond 8192 multiples of 8"),
        (replace(ROTARY, batch=65_536), "batch 65536"),
        (replace(FIR, taps=1), "1 taps; accepted: 2 to 129"),
        (replace(FIR, taps=130), "130 taps; accepted: 2 to 129"),
        (replace(FIR, dtype=torch.float64), "dtype float64; accepted: float32, bfloat16, float16"),
        (replace(FIR, options=frozenset({OTHER_DTYPE})), "a ring in another dtype than x"),
        (replace(FIR, batch=0), "the call is empty"),
        (replace(FIR, batch=65_536), "65536 rows; accepted: up to 65535"),
        (replace(FIR, device="cpu"), "the tensors are on cpu; accepted: cuda"),
        (replace(GATED, dtype=torch.float16), "dtype float16; accepted: bfloat16"),
        (replace(GATED, inputs=4097), "4097 inputs, 11264 outputs; accepted: multiples of 8"),
        (replace(GATED, channels=4), "4096 inputs, 4 outputs; accepted: multiples of 8"),
        (replace(GATED, inputs=0), "the call is empty"),
        (replace(GATED, gradient=True), "a gradient is wanted; accepted: calls without"),
        (replace(GATED, device="cpu"), "the tensors are on cpu; accepted: cuda"),
    ],
)
def test_what_no_kernel_takes_is_refused_with_what_is_accepted(call: Call, text: str) -> None:
    assert text in (refusal(call) or "")


@pytest.mark.parametrize(
    "call",
    [
        NORM,
        replace(NORM, channels=8191),
        replace(NORM, channels=24_576),
        replace(NORM, operator="gated_product", channels=100_001),
        replace(NORM, operator="rounded_rows", options=frozenset({"norm"})),
        replace(ROTARY, channels=70_000, options=frozenset({"into"})),
    ],
)
def test_any_rows_that_registers_hold_are_taken(call: Call) -> None:
    assert refusal(call) is None


def test_the_structures_have_the_sizes_that_a_c_compiler_gives_them() -> None:
    assert ctypes.sizeof(RowsArguments) == 6 * 8 + 4 * 8 + 6 * 4
    assert ctypes.sizeof(RotaryArguments) == 6 * 8 + 16 * 8 + 5 * 4 + 4
    assert ctypes.sizeof(TurnArguments) == 3 * 8 + 10 * 8 + 4 * 4


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """The functions of the library that were called, and with what; there is no library."""
    made: list[tuple[str, Any, tuple[Any, ...]]] = []

    class Library:
        def enqueue(self, name: str, x: Tensor, given: Any, *rest: Any) -> None:
            made.append((name, given._obj if hasattr(given, "_obj") else given, rest))

    monkeypatch.setattr(_cuda_streams, "load_cuda_library", Library)
    return made


def test_a_norm_of_strided_rows_is_told_where_they_lie(calls: list[tuple[str, Any, tuple[Any, ...]]]) -> None:
    x, addend = torch.ones(2, 3, 100)[..., :40], torch.ones(2, 3, 40, dtype=torch.bfloat16)
    y, total = _cuda_rows.row_norm(x, addend, torch.ones(40), 1e-3, _cuda_rows.NORM_CODES["standard"])
    ((name, given, _),) = calls
    assert name == "subquad_ops_row_norm"
    assert (given.rows, given.channels, given.x_stride, given.other_stride) == (6, 40, 100, 40)
    assert (given.dtype, given.other_dtype, given.scale_dtype, given.norm) == (0, 2, 0, 2)
    assert (given.x, given.other, given.output) == (x.data_ptr(), addend.data_ptr(), y.data_ptr())
    assert total is not None
    assert given.total == total.data_ptr()
    assert y.is_contiguous()


def test_without_addend_there_is_no_sum(calls: list[tuple[str, Any, tuple[Any, ...]]]) -> None:
    assert _cuda_rows.row_norm(torch.ones(4, 40), None, torch.ones(40), 1e-3, 1)[1] is None
    assert calls[0][1].total is None
    assert calls[0][1].other is None


def test_long_rows_that_begin_anywhere_are_copied(calls: list[tuple[str, Any, tuple[Any, ...]]]) -> None:
    short, long = torch.ones(2, 8001)[:, 1:], torch.ones(2, 9001)[:, 1:]
    for x in (short, long):
        _cuda_rows.rounded(x, None, None, 0.0, 0)
    assert (calls[0][1].x, calls[0][1].x_stride) == (short.data_ptr(), 8001)
    assert calls[1][1].x != long.data_ptr()
    assert calls[1][1].x_stride == 9000


def test_contiguous_branches_of_a_gate_are_one_row(calls: list[tuple[str, Any, tuple[Any, ...]]]) -> None:
    gate, value = torch.ones(6, 10), torch.ones(6, 10)
    assert _cuda_rows.product(gate, value, "gelu").shape == (6, 10)
    assert _cuda_rows.product(torch.ones(6, 20), None, "").shape == (6, 10)
    whole, halves = (given for _, given, _ in calls)
    assert (whole.rows, whole.channels, whole.activation) == (1, 60, 2)
    assert (halves.rows, halves.channels, halves.x_stride, halves.other_stride) == (6, 10, 20, 20)
    assert halves.other == halves.x + 10 * 4
    assert halves.activation == 0


def test_products_are_rounded_without_a_sum(calls: list[tuple[str, Any, tuple[Any, ...]]]) -> None:
    codes, inverse = _cuda_rows.rounded_product(torch.ones(6, 10), torch.ones(6, 10), "gelu")
    assert (calls[0][1].total, calls[0][1].activation, calls[0][1].norm) == (None, 2, 0)
    assert (codes.shape, inverse.shape) == ((6, 10), (6,))
    codes, inverse = _cuda_rows.rounded_columns(torch.ones(2, 10, 7).bfloat16())
    assert calls[1][0] == "subquad_ops_rounded_columns"
    assert calls[1][2][2:] == (2, 10, 7, 70, 7, 2)
    assert (codes.shape, inverse.shape) == ((2, 7, 10), (2, 7))


def test_keys_of_a_dtype_that_no_kernel_writes_are_copied_behind_it(
    calls: list[tuple[str, Any, tuple[Any, ...]]],
) -> None:
    qkv, position = torch.ones(1, 5, 2, 3, 8), torch.arange(5)[None]
    keys, values = torch.zeros(1, 5, 2, 8, dtype=torch.float64), torch.zeros(1, 9, 2, 8)[:, 2:7]
    q = _cuda_rows.rotary(qkv, position, torch.ones(4), 2.0, keys, values)
    ((_, given, _),) = calls
    assert given.keys not in (None, keys.data_ptr())
    assert (given.values, given.value_time, given.value_dtype) == (values.data_ptr(), 16, 0)
    assert (given.x_part, given.x_head, given.half, given.position_batch) == (8, 24, 4, 0)
    assert (given.position_bytes, given.scale) == (8, 2.0)
    assert q.shape == (1, 5, 2, 8)


class _OnCuda:
    """As much of a tensor on a GPU as the choice of a kernel asks for."""

    is_cuda, requires_grad = True, False

    def __init__(self, dtype: torch.dtype = torch.bfloat16, batch: int = 2) -> None:
        self.dtype, self.shape = dtype, (batch, 3, 4)

    def numel(self) -> int:
        return 12 * self.shape[0]


@pytest.mark.parametrize(
    ("usable", "ring", "history", "kernel"),
    [
        (("cuda", "triton"), _OnCuda(), None, "cuda"),
        (("cuda", "triton"), _OnCuda(), _OnCuda(torch.float64), "triton"),
        (("cuda", "triton"), _OnCuda(batch=65_536), None, "triton"),
        (("cuda", "triton"), _OnCuda(torch.float64), None, None),
        (("triton",), _OnCuda(), _OnCuda(), "triton"),
        ((), _OnCuda(), None, None),
        (("cuda",), SimpleNamespace(is_cuda=False), None, None),
    ],
)
def test_a_ring_takes_the_library_then_triton_then_torch(
    monkeypatch: pytest.MonkeyPatch, usable: tuple[str, ...], ring: Any, history: Any, kernel: str | None
) -> None:
    monkeypatch.setattr(dispatch, "load_backend", lambda name: (None if name in usable else "not here", ()))
    chosen = rings._kernel(ring, history)
    assert (None if chosen is None else chosen.run.__module__) == (kernel and f"subquad.ops.fir_step.{kernel}.ring")


def test_a_kernel_is_enqueued_on_the_current_stream_of_the_device_of_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []
    made: list[tuple[Any, ...]] = []

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            entered.append(self.index)

        def __exit__(self, *_: object) -> None:
            entered.append(-self.index)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(_cuda_library, "_current_stream", lambda device: 1000 + device)
    library = object.__new__(_cuda_library.CudaLibrary)
    monkeypatch.setattr(_cuda_library.CudaLibrary, "call", lambda self, *given: made.append(given))
    for device in (1, 2):
        library.enqueue("name", SimpleNamespace(get_device=lambda device=device: device), 7)  # type: ignore[arg-type]
    assert made == [("name", 7, 1001), ("name", 7, 1002)]
    assert entered == [2, -2]
