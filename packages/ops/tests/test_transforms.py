"""The operators under torch.func, and on tensors without numbers: gradients, vectorised calls, forward derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from packages.ops.tests.every_operator import BATCH, CASES, CHANNELS, STATES, Case, modes
from subquad import ops
from tools.testing.oracle import assert_close

LENGTH = 70  # so long that the gated operators would take their blocks in the cache
_IN_CHUNKS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "causal_conv, in chunks": ("causal_conv, FFT", lambda x, w: ops.causal_conv(x, w, chunk_size=2)),
    "fft_conv, in chunks": ("fft_conv", lambda x, w: ops.fft_conv(x, w, chunk_size=2)),
    "gated_conv, in chunks": ("gated_conv", lambda z, p, w: ops.gated_conv(z, p, w, chunk_size=2)),
    "modal_conv, in chunks": ("modal_conv", lambda x, p, r: ops.modal_conv(x, p, r, chunk_size=33)),
    "selective_scan, in chunks": ("selective_scan", lambda *inputs: ops.selective_scan(*inputs, chunk_size=33)),
}
_WITH_SKIP = Case(
    lambda z, p, w, s: ops.gated_conv(z, p, w, skip=s),
    CASES["gated_conv"].reference,
    lambda b, n: (*CASES["gated_conv"].inputs(b, n), torch.randn(CHANNELS)),
)
_CASES = {
    **CASES,
    "gated_conv, with a skip": _WITH_SKIP,
    **{n: Case(call, CASES[of].reference, CASES[of].inputs) for n, (of, call) in _IN_CHUNKS.items()},
}


def _inputs(name: str) -> tuple[Tensor, ...]:
    return tuple(x.double() for x in _CASES[name].inputs(BATCH, LENGTH))


def _loss(name: str) -> Callable[..., Tensor]:
    return lambda *inputs: _CASES[name].operator(*inputs).square().sum()


@pytest.mark.parametrize("name", _CASES)
def test_functional_gradients_are_those_of_autograd(name: str) -> None:
    inputs = _inputs(name)
    got = torch.func.grad(_loss(name), argnums=tuple(range(len(inputs))))(*inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    for one, other in zip(got, torch.autograd.grad(_loss(name)(*leaves), leaves), strict=True):
        assert_close(one, other, 1e-11)


@pytest.mark.parametrize("name", _CASES)
def test_a_vectorised_call_is_the_loop(name: str) -> None:
    operator, inputs = _CASES[name].operator, _inputs(name)
    factors = torch.tensor([1.0, 0.5, 0.25]).double()
    stacks = [torch.stack([factor * x for factor in factors]) for x in inputs]
    expected = torch.stack([operator(*each) for each in zip(*stacks, strict=True)])
    assert_close(torch.func.vmap(operator)(*stacks), expected, 1e-12)
    for place, stack in enumerate(stacks):  # and over each argument alone
        given = [stack if place == index else x for index, x in enumerate(inputs)]
        looped = torch.stack([operator(*given[:place], x, *given[place + 1 :]) for x in stack])
        over = tuple(0 if place == index else None for index in range(len(inputs)))
        assert_close(torch.func.vmap(operator, in_dims=over)(*given), looped, 1e-12)


@pytest.mark.parametrize("name", _CASES)
def test_every_sample_can_have_its_own_gradient(name: str) -> None:
    inputs, place = _inputs(name), min(1, len(_inputs(name)) - 1)
    samples = torch.stack([inputs[0], 0.5 * inputs[0]])
    gradient = torch.func.grad(_loss(name), argnums=place)
    got = torch.func.vmap(gradient, in_dims=(0, *[None] * (len(inputs) - 1)))(samples, *inputs[1:])
    assert_close(got, torch.stack([gradient(x, *inputs[1:]) for x in samples]), 1e-11)


@pytest.mark.parametrize("name", _CASES)
def test_forward_and_backward_derivatives_agree(name: str) -> None:
    operator, inputs = _CASES[name].operator, _inputs(name)
    change = tuple(torch.randn_like(x) for x in inputs)
    y, moved = torch.func.jvp(operator, inputs, change)
    upstream = torch.randn_like(y)
    gradients = torch.func.vjp(operator, *inputs)[1](upstream)
    along = sum((g * c).sum() for g, c in zip(gradients, change, strict=True))
    assert_close((upstream * moved).sum(), torch.as_tensor(along), 1e-10)


@pytest.mark.parametrize("name", _CASES)
def test_a_second_derivative_can_be_taken_forward_over_backward(name: str) -> None:
    inputs, change = _inputs(name), torch.randn_like(_inputs(name)[0])

    def slope(x: Tensor) -> Tensor:
        return torch.func.grad(_loss(name))(x, *inputs[1:])

    _, curved = torch.func.jvp(slope, (inputs[0],), (change,))
    step = 1e-4  # the loss is at most quadratic in the streams but for the gates: a small step is enough
    expected = (slope(inputs[0] + step * change) - slope(inputs[0] - step * change)) / (2 * step)
    assert_close(curved, expected, 1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", _CASES)
def test_tensors_without_numbers_get_the_shape_and_dtype_of_the_result(name: str) -> None:
    inputs = [x.bfloat16() for x in _inputs(name)]
    expected = _CASES[name].operator(*inputs)
    on_meta = _CASES[name].operator(*(x.to("meta") for x in inputs))
    with FakeTensorMode() as mode:
        fake = _CASES[name].operator(*(mode.from_tensor(x) for x in inputs))
    for got in (on_meta, fake):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)


@pytest.mark.usefixtures("unchecked")
def test_steps_and_packed_sequences_take_tensors_without_numbers() -> None:
    with FakeTensorMode():
        position, ring, x = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3, 4), torch.zeros(1, 3)
        assert ops.fir_step(x, torch.zeros(3, 5), ring, position).shape == (1, 3)
        bounds, row = torch.tensor([0, 4, 9]), torch.zeros(1, 3, 9)
        y, state = ops.causal_conv_with_state(row, torch.zeros(3, 5), cu_seqlens=bounds)
        assert (y.shape, state.shape) == ((1, 3, 9), (2, 3, 4))


def test_rotations_can_be_vectorised_and_differentiated_forward() -> None:
    x, at, turns = torch.randn(3, 2, 5, 1, 6).double(), torch.arange(5)[None], torch.rand(3).double()

    def turn(x: Tensor) -> Tensor:
        return ops.rotary(x, at, turns)

    assert_close(torch.func.vmap(turn)(x), torch.stack([turn(one) for one in x]), 1e-12)
    change = torch.randn_like(x[0])
    assert_close(torch.func.jvp(turn, (x[0],), (change,))[1], turn(change), 1e-12)  # a rotation is linear


def test_rounded_products_have_functional_gradients() -> None:
    x, weight, scale = torch.randn(5, 8), torch.randn(3, 8), torch.tensor(8.0)

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return ops.fp8_linear(x, weight, input_scale=scale, weight_scale=scale).square().sum()

    leaves = [value.clone().requires_grad_() for value in (x, weight)]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for got, of_autograd in zip(torch.func.grad(loss, argnums=(0, 1))(x, weight), expected, strict=True):
        assert_close(got, of_autograd, 1e-6)


def test_a_vectorised_step_advances_every_state() -> None:
    poles, residues = modes()
    x, states = torch.randn(4, 1, CHANNELS), torch.randn(4, 1, CHANNELS, STATES)
    own = states.clone()
    expected = torch.stack([ops.modal_step(x[i], poles, residues, own[i]) for i in range(4)])
    got = torch.func.vmap(lambda x, s: ops.modal_step(x, poles, residues, s))(x, states)
    assert_close(got, expected, 1e-6)
    assert_close(states, own, 1e-6)
