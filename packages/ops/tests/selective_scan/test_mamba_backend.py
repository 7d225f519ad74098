"""The selective scan on CUDA goes to mamba_ssm where it is installed; a stand-in takes its place here."""

import sys
import types
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from subquad.ops import BackendUnavailable, _mamba_backend, dispatch, selective_scan, selective_scan_with_state
from subquad.ops.dispatch import Call, choose
from subquad.ops.selective_scan.reference import selective_scan_reference
from tools.testing.oracle import assert_close

CALL = Call("selective_scan", torch.bfloat16, "cuda", batch=2, channels=4, length=9, taps=3)


def _arguments(dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, step = torch.randn(2, 4, 9).to(dtype), torch.rand(2, 4, 9)
    return x, step, -torch.rand(4, 3), torch.randn(2, 2, 3, 9), torch.randn(2, 2, 3, 9)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.dtype]]:
    """Installs a mamba_ssm that computes the definition; lists the dtypes of the arguments it gets."""
    found: list[torch.dtype] = []

    def scan(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, *, return_last_state: bool
    ) -> tuple[Tensor, Tensor]:
        assert return_last_state
        found.extend(t.dtype for t in (u, delta, A, B, C))
        y, state = selective_scan_reference(*(t.double() for t in (u, delta, A, B, C)), D)
        return y.to(u.dtype), state.float()

    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    vars(interface)["selective_scan_fn"] = scan
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setattr(_mamba_backend, "unavailable", lambda: None)
    yield found
    dispatch._usable.cache_clear()  # what could be used once is not asked again


@pytest.mark.usefixtures("seen")
def test_auto_takes_the_library_on_cuda_and_says_so() -> None:
    chosen, explanation = choose(CALL, "auto")
    assert chosen is not None
    assert explanation.backend == chosen.backend == "mamba"


def test_the_library_gets_streams_of_one_dtype_and_float32_decays(seen: list[torch.dtype]) -> None:
    arguments = _arguments(torch.bfloat16)
    chosen, _ = choose(CALL, "auto")
    assert chosen is not None
    y, state = chosen.run(*arguments, skip=torch.ones(4), initial_state=None)
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]
    expected, last = selective_scan_with_state(*arguments, skip=torch.ones(4))
    assert_close(y.float(), expected.float(), 2e-2)
    assert_close(state, last, 2e-2)


@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": "cpu"}, "the tensors are on cpu; accepted: cuda"),
        ({"dtype": torch.float64}, "dtype float64; accepted: float32, float16, bfloat16"),
        ({"taps": 300}, "300 states; accepted: up to 256"),
        ({"batch": 0}, "an empty sequence; accepted: one sample or more"),
        ({"capturing": True}, "a CUDA graph is being captured"),
        ({"options": frozenset({"initial_state"})}, "an initial state, or chunks that go on from one; accepted: none"),
        ({"options": frozenset({"final_state"}), "gradient": True}, "the final state is kept and a gradient wanted"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_the_library_cannot_take_runs_in_torch_and_says_why(change: dict[str, object], reason: str) -> None:
    call = Call(**{**vars(CALL), **change})
    chosen, explanation = choose(call, "auto")
    assert chosen is None
    assert call.device == "cpu" or reason in explanation.reason
    with pytest.raises(BackendUnavailable, match=reason):
        choose(call, "mamba")


def test_without_the_library_the_refusal_says_what_to_install() -> None:
    with pytest.raises(BackendUnavailable, match="mamba_ssm is not installed; pip install mamba-ssm"):
        selective_scan(*_arguments(torch.float32), backend="mamba")


def test_a_call_on_a_cpu_never_looks_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Callable[[], str]:
        raise AssertionError("the library was looked for")

    monkeypatch.setattr(_mamba_backend, "unavailable", fail)
    selective_scan(*_arguments(torch.float32))
