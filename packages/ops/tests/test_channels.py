"""chunk_size of the causal and gated convolutions: the same numbers, states and gradients from less memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from packages.ops.tests.memory import peak_bytes
from subquad import ops
from tools.testing.oracle import assert_close

BATCH, CHANNELS, STATES = 2, 6, 5


def _parts(result: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(part for value in result for part in (value if isinstance(value, tuple) else (value,)))


def _causal(x: Tensor, taps: Tensor, bias: Tensor, before: Tensor, **options: Any) -> tuple[Tensor, ...]:
    result = ops.causal_conv_with_state(
        x, taps, bias=bias, skip=bias, activation="silu", initial_state=before, **options
    )
    return _parts(result)


def _packed(x: Tensor, taps: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return _parts(ops.causal_conv_with_state(x, taps, cu_seqlens=torch.tensor([0, 4, 4, 11]), **options))


def _gated(z: Tensor, projection: Tensor, taps: Tensor, skip: Tensor, *before: Tensor, **options: Any) -> Any:
    state = ops.GatedConvState(*before)
    return _parts(ops.gated_conv_with_state(z, projection, taps, skip=skip, initial_state=state, **options))


def _gated_modal(z: Tensor, taps: Tensor, poles: Tensor, residues: Tensor, *before: Tensor, **options: Any) -> Any:
    state = ops.GatedModalState(*before)
    return _parts(ops.gated_modal_conv_with_state(z, taps, -poles.abs(), residues, initial_state=state, **options))


# An operator and the shapes of its inputs; filters have fewer rows than there are channels.
CASES: dict[str, tuple[Callable[..., tuple[Tensor, ...]], tuple[tuple[int, ...], ...]]] = {
    "causal_conv": (_causal, ((BATCH, CHANNELS, 11), (3, 4), (CHANNELS,), (BATCH, CHANNELS, 3))),
    "causal_conv, packed": (_packed, ((1, CHANNELS, 11), (2, 30))),
    "gated_conv": (
        _gated,
        ((BATCH, 18, 11), (9, 3), (2, 7), (CHANNELS,), (BATCH, 18, 2), (BATCH, CHANNELS, 6)),
    ),
    "gated_modal_conv": (
        _gated_modal,
        ((BATCH, 18, 11), (6, 3), *[(CHANNELS, STATES)] * 2, (BATCH, 18, 2), (BATCH, CHANNELS, STATES)),
    ),
}


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 5, 6, 100])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_channels_at_a_time_gives_the_same(name: str, chunk_size: int) -> None:
    operator, shapes = CASES[name]
    inputs = [torch.randn(shape).double().requires_grad_() for shape in shapes]
    whole, got = operator(*inputs), operator(*inputs, chunk_size=chunk_size)
    upstream = [torch.randn_like(value) for value in whole]
    gradients = [torch.autograd.grad(results, inputs, upstream) for results in (whole, got)]
    for a, b in zip((*got, *gradients[1]), (*whole, *gradients[0]), strict=True):
        assert_close(a, b, 1e-13)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck_passes_in_chunks(name: str) -> None:
    operator, shapes = CASES[name]
    inputs = [torch.randn(shape).double().requires_grad_() for shape in shapes]
    assert gradcheck(lambda *values: operator(*values, chunk_size=4), inputs, fast_mode=True)


def test_the_output_alone_and_channels_last_take_chunks_too() -> None:
    z, projection, taps, modes = torch.randn(2, 9, 18), torch.randn(18, 3), torch.randn(6, 7), torch.rand(2, 6, 5)
    for operator, rest in ((ops.gated_conv, (taps,)), (ops.gated_modal_conv, (-modes[0], modes[1]))):
        whole = operator(z.mT, projection, *rest)  # type: ignore[operator]
        assert_close(operator(z, projection, *rest, layout="BLH", chunk_size=2).mT, whole, 1e-6)  # type: ignore[operator]
    x = z[..., :6]
    whole = ops.causal_conv(x.mT, taps)
    assert_close(ops.causal_conv(x, taps, layout="BLH", chunk_size=4).mT, whole, 1e-6)


PEAKS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...], float]] = {
    "causal_conv, 128 taps": (ops.causal_conv, ((1, 16, 2048), (16, 128)), 0.6),
    "causal_conv, as many taps as samples": (ops.causal_conv, ((1, 16, 2048), (16, 2048)), 0.6),
    "gated_conv": (ops.gated_conv, ((1, 48, 2048), (48, 3), (16, 128)), 0.7),
    "gated_modal_conv": (ops.gated_modal_conv, ((1, 48, 2048), (48, 3), (16, 8), (16, 8)), 0.7),
}


@pytest.mark.parametrize("name", PEAKS)
def test_fewer_channels_at_a_time_lower_the_peak_of_forward_and_backward(name: str) -> None:
    operator, shapes, most = PEAKS[name]
    inputs = [(-torch.rand(shape)).requires_grad_() for shape in shapes]

    def train(chunk_size: int | None) -> Callable[[], object]:
        return lambda: torch.autograd.grad(operator(*inputs, chunk_size=chunk_size).sum(), inputs)

    assert peak_bytes(train(2)) < most * peak_bytes(train(None))


@pytest.mark.usefixtures("unchecked")
def test_no_channels_at_a_time_are_refused() -> None:
    x, z, taps = torch.randn(1, 6, 9), torch.randn(1, 18, 9), torch.randn(6, 3)
    calls: tuple[Callable[[], object], ...] = (
        lambda: ops.causal_conv(x, taps, chunk_size=0),
        lambda: ops.gated_conv(z, torch.randn(18, 3), taps, chunk_size=0),
        lambda: ops.gated_modal_conv(z, torch.randn(18, 3), -taps.abs(), taps, chunk_size=0),
    )
    for call in calls:
        with pytest.raises(ops.ArgumentOutOfRange, match="chunk_size is 0; accepted: 1 or more channels, or None"):
            call()
