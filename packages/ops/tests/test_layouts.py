"""Streams with channels last: the forms on a CPU get the samples of a channel side by side, and give the same bits."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad import ops
from subquad.ops._blocks import lengthwise

CHANNELS, LENGTH = 6, 1100
X, Z = torch.randn(2, CHANNELS, LENGTH), torch.randn(2, 3 * CHANNELS, LENGTH)
TAPS, LONG, PROJECTION = torch.randn(CHANNELS, 7), torch.randn(CHANNELS, 90), torch.randn(3 * CHANNELS, 3)
POLES, RESIDUES = -torch.rand(CHANNELS, 4), torch.randn(CHANNELS, 4)
CALLS: dict[str, tuple[Callable[..., Tensor], Tensor, str]] = {
    "causal_conv": (lambda x, **o: ops.causal_conv(x, LONG, **o), X, "filter_stream"),
    "gated_conv": (lambda z, **o: ops.gated_conv(z, PROJECTION, TAPS, **o), Z, "project_and_gate"),
    "modal_conv": (lambda x, **o: ops.modal_conv(x, POLES, RESIDUES, **o), X, "filter_modal"),
    "gated_modal_conv": (
        lambda z, **o: ops.gated_modal_conv(z, PROJECTION, POLES, RESIDUES, **o),
        Z,
        "project_and_gate",
    ),
}


@pytest.mark.parametrize("records", [False, True], ids=["plain", "with a gradient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_channels_last_are_turned_before_they_are_filtered(
    name: str, dtype: torch.dtype, records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, stream, form = CALLS[name]
    module: Any = importlib.import_module(f"subquad.ops.{name}.{name}")
    run, strides = getattr(module, form), []
    monkeypatch.setattr(module, form, lambda x, *rest: strides.append(x.stride(-1)) or run(x, *rest))
    x = stream.to(dtype, copy=True).requires_grad_(records)
    y = call(x.mT.contiguous(), layout="BLH")
    assert set(strides) == {1}
    assert torch.equal(y.mT, call(x))


def test_a_stream_is_turned_in_blocks_of_which_the_last_is_shorter() -> None:
    last = X.mT.contiguous().mT
    turned = lengthwise(last)
    assert turned.is_contiguous()
    assert torch.equal(turned, X)
    assert lengthwise(X) is X
