"""A kernel runs on the device of its input, whatever the current device is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from packages.ops.tests.every_operator import CASES
from subquad.ops import (
    _capability,
    _cuda_backend,
    _mamba_backend,
    _scaled_mm_backend,
    _triton_backend,
    _vendor_backend,
    dispatch,
)
from subquad.ops.dispatch import Call, Implementation
from subquad.ops.greedy_step.greedy_step import describe as describe_greedy
from subquad.ops.linear_step.linear_step import describe as describe_linear

pytestmark = pytest.mark.usefixtures("unchecked")


def _on_cuda(device: int) -> Any:
    """As much of a tensor on a GPU as is asked for here."""
    return SimpleNamespace(is_cuda=True, device=device, get_device=lambda: device)


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The current device, 0, and those entered since on top of it."""
    stack = [0]

    @contextmanager
    def enter(device: int) -> Iterator[None]:
        stack.append(device)
        yield
        stack.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: stack[-1])
    monkeypatch.setattr(torch.cuda, "device", enter)
    return stack


@pytest.mark.parametrize("module", [_triton_backend, _vendor_backend, _mamba_backend, _scaled_mm_backend])
def test_a_backend_enters_the_device_of_the_first_argument(
    module: ModuleType, current: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module.__name__.rpartition("._")[2].removesuffix("_backend")

    def run(x: Any, *, scale: int) -> tuple[int, list[int]]:
        return scale, list(current)

    offered = Implementation(name, "causal_conv", lambda call: None, run, output=run)
    monkeypatch.setattr(module, "unavailable", lambda: None)
    monkeypatch.setattr(module, "implementations", lambda: (offered,))
    _, (found,) = dispatch.load_backend(name)
    for form in (found.run, found.output):
        assert form is not None
        assert form(_on_cuda(1), scale=3) == (3, [0, 1])
        assert form((_on_cuda(2), None), scale=3) == (3, [0, 2])
        assert form(_on_cuda(0), scale=3) == (3, [0])
        assert form(torch.zeros(2), scale=3) == (3, [0])
    assert current == [0]


def test_rings_turn_on_their_own_device(current: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    ring = pytest.importorskip("subquad.ops.fir_step.triton.ring")
    seen: list[list[int]] = []
    monkeypatch.setattr(ring, "runs_plainly", lambda x: True)
    monkeypatch.setattr(ring, "_launch", lambda *given: seen.append(list(current)))
    ring.turn(_on_cuda(1), _on_cuda(1), _on_cuda(1), 0, True)
    assert seen == [[0, 1]]


def test_rows_are_rounded_on_their_own_device_where_a_call_is_known(
    current: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = pytest.importorskip("subquad.ops.fp8_linear.triton.launch")
    seen: list[list[Any]] = []
    x, weight, ones = torch.ones(16, 32), torch.ones(48, 32).to(torch.float8_e4m3fn), torch.ones(48)

    def rounded(rows: torch.Tensor, scale: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(list(current))
        return rows.to(weight.dtype), torch.ones(16, 1)

    monkeypatch.setattr(_scaled_mm_backend, "_has_triton", lambda: True)
    monkeypatch.setattr(_scaled_mm_backend, "_product", lambda *_: torch.zeros(16, 48))
    monkeypatch.setattr(launch, "round_rows", rounded)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.Tensor, "get_device", lambda _: 1)
    (offered,) = _scaled_mm_backend.implementations()
    assert offered.plainly is not None
    offered.plainly(x, weight, input_scale=None, weight_scale=ones, weight_inverse=ones)
    assert seen == [[0, x.device]]


def test_rings_of_any_number_of_rows_fit_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = pytest.importorskip("subquad.ops.fir_step.triton.ring")
    grids: list[tuple[int, ...]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            grids.append(grid)
            return lambda *given, **options: None

    monkeypatch.setattr(ring, "turn_kernel", Kernel())
    history = torch.zeros(1, 1, 1).expand(70_000, 3, 6)
    ring._launch(history, history, torch.zeros(70_000, dtype=torch.int64), 0, True)
    assert all(size <= 65_535 for size in grids[0][1:])


@pytest.fixture
def unlike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs: the first and current one is too old for everything, the second for some, the third for nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    found = [(7, 5), (8, 6), (9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: found[device or 0])
    monkeypatch.setattr(_capability, "_capability", _capability._capability.__wrapped__)
    monkeypatch.setattr(_triton_backend, "_missing", _triton_backend._missing.__wrapped__)
    monkeypatch.setattr(_scaled_mm_backend, "_unavailable", _scaled_mm_backend._unavailable.__wrapped__)
    monkeypatch.setattr(_triton_backend, "interpreting", lambda: False)


_LINEAR = Call("linear_step", torch.bfloat16, "cuda", batch=1, channels=64, length=1, taps=64, inputs=64)
_ROUNDED = replace(_LINEAR, options=frozenset({"rounded weight"}))
_FP8 = replace(_LINEAR, operator="fp8_linear", length=8)


@pytest.mark.usefixtures("unlike")
@pytest.mark.parametrize(
    ("module", "call", "refusals"),
    [
        (_triton_backend, _LINEAR, ["compute capability 7.5; accepted: 8.0 and later", "", ""]),
        (_triton_backend, _ROUNDED, ["want compute capability 8.9", "want compute capability 8.9", ""]),
        (_cuda_backend, _LINEAR, ["accepted: compute capability 9.0", "accepted: compute capability 9.0", ""]),
        (_cuda_backend, replace(_LINEAR, operator="rms_norm"), ["capability 7.5; accepted: 8.0 to 9.0", "", ""]),
        (_scaled_mm_backend, _FP8, ["7.5; accepted: 9.0 and later", "8.6; accepted: 9.0 and later", ""]),
    ],
)
def test_a_call_is_refused_by_the_gpu_of_its_tensors(module: ModuleType, call: Call, refusals: list[str]) -> None:
    if module is not _cuda_backend:  # whose library is not built here
        assert module.unavailable() is None
    (refusal,) = (each.refusal for each in module.implementations() if each.operator == call.operator)
    for index, words in enumerate(refusals):
        found = refusal(replace(call, index=index))
        assert found is None if not words else words in (found or "")


@pytest.mark.usefixtures("unlike")
def test_kernels_start_early_on_the_gpus_that_can_and_in_graphs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    programmatic = pytest.importorskip("subquad.ops.linear_step.triton.programmatic")
    monkeypatch.setattr(programmatic, "interpreting", lambda: False)
    found = []
    for device, recording in ((0, True), (2, True), (1, True), (2, False), (2, True)):
        monkeypatch.setattr(torch.cuda, "current_device", lambda device=device: device)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda recording=recording: recording)
        found.append(programmatic.dependent_launch()["DEPENDENT"])
    assert found == [False, True, False, False, True]


@pytest.mark.parametrize("name", [name for name in CASES if name != "rearrange"])
def test_a_call_names_the_device_of_its_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, described, choose = CASES[name], list[Call](), dispatch.choose
    inputs = case.inputs(2, 9)
    monkeypatch.setattr(torch.Tensor, "get_device", lambda _: 2)
    monkeypatch.setattr(dispatch, "choose", lambda call, backend: (described.append(call), choose(call, backend))[1])
    case.operator(*inputs)
    assert {call.index for call in described} == {2}


def test_a_step_names_the_device_of_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = torch.ones(1, 16), torch.zeros(1, dtype=torch.int64)
    assert describe_linear(x, x).index == -1
    monkeypatch.setattr(torch.Tensor, "get_device", lambda _: 2)
    assert describe_linear(x, x).index == describe_greedy(x, ids).index == 2
