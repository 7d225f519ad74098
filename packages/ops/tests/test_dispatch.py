"""Which backend a call takes, and how a third party adds one."""

from pathlib import Path

import pytest
import torch

from subquad.ops import ArgumentOutOfRange, BackendUnavailable, causal_conv, explain, gated_modal_conv
from subquad.ops.dispatch import OPERATORS, third_party_backends

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
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a distribution that offers the backend "answer"."""
    (tmp_path / "subquad_answer.py").write_text(PLUGIN)
    information = tmp_path / "subquad_answer-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: subquad-answer\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[subquad.ops.backends]\nanswer = subquad_answer:offer\n")
    monkeypatch.syspath_prepend(str(tmp_path))


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
