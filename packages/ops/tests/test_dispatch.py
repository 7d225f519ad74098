"""Which backend a call takes, and how a third party adds one."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from subquad import ops
from subquad.ops import (
    ArgumentOutOfRange,
    BackendUnavailable,
    _triton_backend,
    causal_conv,
    dispatch,
    explain,
    gated_modal_conv,
)
from subquad.ops.diagnosis import diagnose
from subquad.ops.dispatch import (
    AUTO_ON_CUDA,
    BUILT_IN,
    LIBRARIES_ON_CUDA,
    OPERATORS,
    Call,
    third_party_backends,
)

ARGUMENTS: dict[str, dict[str, tuple[int, ...]]] = {
    "causal_conv": {"x": (2, 4, 9), "taps": (4, 3), "bias": (4,), "skip": (4,), "initial_state": (2, 4, 2)},
    "fft_conv": {"x": (2, 4, 9), "taps": (4, 3), "skip": (4,)},
    "gated_conv": {"z": (2, 6, 9), "projection_taps": (6, 3), "mixer_taps": (2, 5), "skip": (2,)},
    "modal_conv": {
        "x": (2, 4, 9),
        "log_poles": (4, 3),
        "residues": (4, 3),
        "skip": (4,),
        "initial_state": (2, 4, 3),
    },
    "gated_modal_conv": {
        "z": (2, 6, 9),
        "projection_taps": (6, 3),
        "log_poles": (2, 4),
        "residues": (2, 4),
        "skip": (2,),
    },
    "selective_scan": {
        "x": (2, 4, 9),
        "step_size": (2, 4, 9),
        "decay": (4, 3),
        "input_weights": (2, 1, 3, 9),
        "output_weights": (2, 1, 3, 9),
        "skip": (4,),
        "initial_state": (2, 4, 3),
    },
}
PLUGIN = """
from subquad.ops.dispatch import Implementation


def offer():
    def refusal(call):
        return "only filters of 2 taps" if call.taps != 2 else None

    def run(x, taps, *, bias, skip, activation, initial_state):
        return x * 0 + 42, x[..., -1:]

    return [Implementation("answer", "causal_conv", refusal, run)]
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installs a distribution that offers the backend "answer"."""
    (tmp_path / "subquad_answer.py").write_text(PLUGIN)
    information = tmp_path / "subquad_answer-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: subquad-answer\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[subquad.ops.backends]\nanswer = subquad_answer:offer\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("subquad_answer", None)


def test_a_cpu_call_takes_torch_and_says_why() -> None:
    explanation = explain("causal_conv", torch.randn(1, 2, 9), torch.randn(2, 3))
    assert explanation.backend == "torch"
    assert explanation.reason == "the tensors are on cpu"


def test_an_unknown_operator_or_backend_is_refused_with_the_accepted_names() -> None:
    with pytest.raises(ArgumentOutOfRange, match=f"op_name is 'conv'; accepted: {', '.join(OPERATORS)}"):
        explain("conv")
    with pytest.raises(
        ArgumentOutOfRange,
        match="backend is 'cudnn'; accepted: auto, torch, triton, cuda, vendor, mamba, scaled_mm, hopper_sums",
    ):
        causal_conv(torch.randn(1, 2, 9), torch.randn(2, 3), backend="cudnn")


@pytest.mark.parametrize("backend", ["cuda", "vendor", "mamba"])
def test_a_backend_that_cannot_run_here_says_why(backend: str) -> None:
    with pytest.raises(BackendUnavailable, match=f"backend '{backend}' cannot take this causal_conv: .+"):
        causal_conv(torch.randn(1, 2, 9), torch.randn(2, 3), backend=backend)


@pytest.mark.parametrize("name", OPERATORS)
def test_explain_takes_the_arguments_of_every_operator(name: str) -> None:
    module = importlib.import_module(f"subquad.ops.{name}.{name}")
    accepted = inspect.signature(module.describe).parameters
    wanted = [argument for argument in inspect.signature(getattr(ops, name)).parameters if argument != "backend"]
    assert [argument for argument in accepted if argument in wanted] == wanted


@pytest.mark.parametrize("name", sorted({*AUTO_ON_CUDA, *LIBRARIES_ON_CUDA}))
def test_the_measured_order_names_operators_and_backends_that_exist(name: str) -> None:
    assert name in OPERATORS
    assert {*AUTO_ON_CUDA.get(name, ()), *LIBRARIES_ON_CUDA.get(name, ())} <= set(BUILT_IN)


def test_without_any_backend_a_call_on_cuda_takes_torch_and_says_what_each_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "load_backend", lambda name: (f"no {name} here", ()))
    call = Call("causal_conv", torch.float32, "cuda", batch=1, channels=2, length=9, taps=3)
    chosen, explanation = dispatch.choose(call, "auto")
    assert chosen is None
    assert explanation.reason == "cuda: no cuda here; triton: no triton here; vendor: no vendor here"


@pytest.mark.usefixtures("plugin")
def test_doctor_lists_a_third_party_backend() -> None:
    assert "backend answer: usable (causal_conv)" in list(diagnose())


@pytest.mark.usefixtures("plugin")
def test_a_name_that_no_third_party_has_is_refused_with_the_names_they_have() -> None:
    with pytest.raises(ArgumentOutOfRange, match=r"backend is 'question'; accepted: auto, torch, .*, answer$"):
        causal_conv(torch.randn(1, 2, 9), torch.randn(2, 2), backend="question")


def test_doctor_says_which_library_of_a_usable_backend_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = dispatch.Implementation("vendor", "fft_conv", lambda _: None, lambda *_: None)
    monkeypatch.setattr("subquad.ops.diagnosis.load_backend", lambda _: (None, (offered,)))
    monkeypatch.setattr("subquad.ops._vendor_backend.missing", lambda: ("cuDNN is not installed",))
    lines = list(diagnose())
    assert "backend vendor: usable (fft_conv); cuDNN is not installed" in lines
    assert "backend triton: usable (fft_conv)" in lines


def test_doctor_survives_a_third_party_backend_that_does_not_import(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "subquad_answer.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.delitem(sys.modules, "subquad_answer", raising=False)
    lines = [line for line in diagnose() if line.startswith("backend answer: ")]
    assert lines == ["backend answer: not usable: ModuleNotFoundError: No module named 'a_module_that_nobody_has'"]


@pytest.mark.usefixtures("plugin")
def test_a_third_party_backend_is_found_used_and_explained() -> None:
    x, taps = torch.randn(1, 2, 9), torch.randn(2, 2)
    assert third_party_backends() == ("answer",)
    assert causal_conv(x, taps, backend="answer").unique().tolist() == [42.0]
    assert explain("causal_conv", x, taps, backend="answer").backend == "answer"
    assert explain("causal_conv", x, taps).backend == "torch"


@pytest.mark.usefixtures("plugin")
def test_a_third_party_backend_refuses_what_it_cannot_do() -> None:
    with pytest.raises(BackendUnavailable, match="only filters of 2 taps"):
        causal_conv(torch.randn(1, 2, 9), torch.randn(2, 3), backend="answer")
    with pytest.raises(BackendUnavailable, match="it has no gated_modal_conv; it has causal_conv"):
        gated_modal_conv(
            torch.randn(1, 6, 9), torch.randn(6, 3), torch.randn(2, 4), torch.randn(2, 4), backend="answer"
        )


def test_auto_leaves_a_call_that_nobody_measured_and_still_takes_it_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def offer(name: str) -> dispatch.Implementation:
        return dispatch.Implementation(
            name, "causal_conv", lambda _: None, lambda *_: None, unmeasured=lambda _: f"{name} is not measured here"
        )

    offers = {name: offer(name) for name in ("cuda", "triton", "vendor")}
    monkeypatch.setattr(dispatch, "load_backend", lambda name: (None, (offers[name],)))
    call = Call("causal_conv", torch.float32, "cuda", batch=1, channels=2, length=9, taps=3)
    chosen, explanation = dispatch.choose(call, "auto")
    assert chosen is None
    assert explanation.reason.startswith("cuda: cuda is not measured here; triton: triton is not measured here")
    assert dispatch.choose(call, "triton")[0] is offers["triton"]


def test_a_form_that_returns_a_state_is_explained_as_the_call_would_go(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 6, 9)
    assert explain("causal_conv_with_state", x, torch.randn(6, 3)).backend == "torch"
    seen: list[Call] = []
    answer = dispatch.Explanation("torch", "it was asked for")
    monkeypatch.setattr(dispatch, "choose", lambda call, backend: (seen.append(call), answer))
    scan = {key: torch.randn(shape) for key, shape in ARGUMENTS["selective_scan"].items()}
    for form in ("selective_scan", "selective_scan_with_state"):
        explain(form, **scan)
        getattr(ops, form)(**scan)
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert "final_state" in seen[2].options


def test_every_form_that_returns_a_state_can_be_explained() -> None:
    assert {name for name in vars(ops) if name.endswith("_with_state")} == set(dispatch.WITH_STATE)


@pytest.mark.parametrize("operator", ["gated_conv", "gated_modal_conv"])
def test_triton_refuses_projections_that_would_compile_for_minutes(operator: str) -> None:
    call = Call(operator, torch.float32, "cuda", batch=1, channels=1, length=99, taps=3, projection_taps=8)
    refusal = _triton_backend._filter_refusal if operator == "gated_conv" else _triton_backend._modal_refusal
    assert refusal(call) is None
    assert refusal(replace(call, projection_taps=9)) == "9 projection taps; accepted: 1 to 8"


def test_triton_refuses_a_stream_whose_samples_32_bits_cannot_number() -> None:
    call = Call("causal_conv", torch.float32, "cuda", batch=1, channels=1, length=2**31 - 2**16, taps=3)
    assert _triton_backend._refusal(call) is None
    assert _triton_backend._refusal(replace(call, length=2**31)) == "length 2147483648; accepted: up to 2147418112"


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_call_says_that_a_graph_is_captured_and_which_argument_wants_a_gradient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = importlib.import_module(f"subquad.ops.{name}.{name}").describe
    arguments = {key: torch.randn(shape) for key, shape in ARGUMENTS[name].items()}
    assert not describe(**arguments).gradient
    assert not describe(**arguments).capturing
    for key in arguments:
        wanting = {**arguments, key: arguments[key].clone().requires_grad_()}
        assert describe(**wanting).gradient, key
        with torch.no_grad():
            assert not describe(**wanting).gradient
    monkeypatch.setattr(dispatch, "capturing", lambda x: True)
    assert describe(**arguments).capturing


@pytest.mark.parametrize("name", ["gated_conv", "gated_modal_conv"])
def test_a_state_that_wants_a_gradient_makes_the_call_want_one(name: str) -> None:
    filters = (torch.randn(2, 4),) if name == "gated_conv" else (torch.randn(2, 3), torch.randn(2, 3))
    form = ops.GatedConvState if name == "gated_conv" else ops.GatedModalState
    state = form(torch.zeros(1, 6, 2), torch.zeros(1, 2, 3, requires_grad=True))
    module = importlib.import_module(f"subquad.ops.{name}.{name}")
    given = (torch.randn(1, 6, 9), torch.randn(6, 3), *filters)
    assert module.describe(*given, initial_state=state).gradient
    assert not module.describe(*given).gradient


def test_a_transformed_call_takes_torch_and_no_kernel_that_would_drop_its_derivative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = dispatch.Implementation("triton", "causal_conv", lambda call: None, lambda *inputs: None)
    monkeypatch.setattr(dispatch, "load_backend", lambda name: (None, (taken,)))
    call = Call("causal_conv", torch.float32, "cuda", batch=1, channels=2, length=9, taps=3)
    assert dispatch.choose(call, "auto")[0] is taken

    def within(x: torch.Tensor) -> torch.Tensor:
        chosen, explanation = dispatch.choose(call, "auto")
        assert chosen is None
        assert explanation.reason == "torch.func or forward-mode differentiation transforms the call"
        with pytest.raises(BackendUnavailable, match="transforms the call, which only the torch form can follow"):
            dispatch.choose(call, "triton")
        return x

    torch.func.jvp(within, (torch.ones(2),), (torch.ones(2),))
    torch.func.vmap(within)(torch.ones(2))
    with torch.autograd.forward_ad.dual_level():
        within(torch.ones(2))
