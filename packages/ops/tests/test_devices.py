"""A kernel runs on the device of its input, whatever the current device is."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from subquad.ops import _mamba_backend, _scaled_mm_backend, _triton_backend, _vendor_backend, dispatch
from subquad.ops.dispatch import Implementation

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
