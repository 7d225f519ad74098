"""The operators inside torch.compile(fullgraph=True), without the shape checker."""

from collections.abc import Callable

import pytest
import torch

from subquad import ops
from tools.testing.oracle import assert_close

pytestmark = pytest.mark.usefixtures("unchecked")

CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "causal_conv short": lambda x: ops.causal_conv(x, torch.ones(12, 3), activation="silu"),
    "causal_conv medium": lambda x: ops.causal_conv(x, torch.ones(12, 90)),
    "causal_conv long": lambda x: ops.causal_conv(x, torch.ones(12, 300)),
    "fft_conv": lambda x: ops.fft_conv(x, torch.ones(12, 9), boundary="circular"),
    "gated_conv": lambda x: ops.gated_conv(x, torch.ones(12, 3), torch.ones(4, 7)),
    "modal_conv": lambda x: ops.modal_conv(x, -torch.ones(12, 4), torch.ones(12, 4)),
    "gated_modal_conv": lambda x: ops.gated_modal_conv(x, torch.ones(12, 3), -torch.ones(4, 4), torch.ones(4, 4)),
    "fir_step": lambda x: ops.fir_step(x[..., 0], torch.ones(12, 3), torch.zeros(2, 12, 2), torch.tensor([0, 1])),
    "modal_step": lambda x: ops.modal_step(x[..., 0], -torch.ones(12, 4), torch.ones(12, 4), torch.zeros(2, 12, 4)),
    "rearrange": ops.rearrange,
}


@pytest.mark.parametrize("name", CASES)
def test_operator_compiles_to_one_graph_and_computes_the_same(name: str) -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 12, 50)
    compiled = torch.compile(CASES[name], fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), CASES[name](x), 1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("step")])
def test_gradients_pass_through_the_compiled_graph(name: str) -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 12, 50, requires_grad=True)
    compiled = torch.compile(CASES[name], fullgraph=True, backend="aot_eager")
    (got,) = torch.autograd.grad(compiled(x).square().sum(), x)
    (expected,) = torch.autograd.grad(CASES[name](x).square().sum(), x)
    assert_close(got, expected, 1e-5)
