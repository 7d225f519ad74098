"""What holds for every operator: any strides, empty batches, odd and prime lengths, poisoned memory, each channel."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from packages.ops.tests.every_operator import BATCH, CASES, CHANNELS, STATES, modes
from packages.ops.tests.memory import peak_bytes
from subquad import ops
from tools.testing.oracle import assert_as_exact_as, assert_close, assert_matches_oracle


def _spread(value: Tensor) -> Tensor:
    """The same numbers, every other element of a tensor twice as long."""
    return value.repeat_interleave(2, dim=-1)[..., ::2] if value.dim() else value


@pytest.mark.parametrize("length", [1, 2, 31, 37, 101, 251])
@pytest.mark.parametrize("name", CASES)
def test_odd_and_prime_lengths_and_each_channel_match_the_oracle(name: str, length: int) -> None:
    case = CASES[name]
    channel_dim = 1 if name != "rearrange" else 2
    assert_matches_oracle(case.operator, case.reference, *case.inputs(BATCH, length), channel_dim=channel_dim)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_low_precision_streams_are_rounded_once(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    inputs = [x.to(dtype) for x in case.inputs(BATCH, 101)]
    exact = case.reference(*(x.double() for x in inputs))
    # One rounding to 8 or 11 bits is an error of 1.7e-3 or 2.1e-4; a second one would make it 2.4e-3 or 2.9e-4.
    assert_close(case.operator(*inputs).double(), exact, 2e-3 if dtype == torch.bfloat16 else 2.5e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name != "rearrange"])
def test_filters_of_float32_on_a_stream_of_bfloat16_are_not_rounded(name: str) -> None:
    case = CASES[name]
    stream, *filters = case.inputs(BATCH, 101)
    stream = stream.bfloat16()
    y = case.operator(stream, *filters)
    assert y.dtype == torch.bfloat16
    exact = case.reference(stream.double(), *(x.double() for x in filters))
    assert_close(y.double(), exact, 2e-3)
    assert torch.equal(y, case.operator(stream.float(), *filters).bfloat16())


@pytest.mark.parametrize("name", CASES)
def test_any_strides_give_the_same(name: str) -> None:
    case = CASES[name]
    inputs = case.inputs(BATCH, 60)
    expected = case.operator(*inputs)
    assert torch.equal(case.operator(*map(_spread, inputs)), expected)
    turned = inputs[0].transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(case.operator(turned, *inputs[1:]), expected)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_gives_an_empty_result_that_still_has_gradients(name: str) -> None:
    case = CASES[name]
    inputs = [x.requires_grad_() for x in case.inputs(0, 9)]
    y = case.operator(*inputs)
    assert y.shape == case.reference(*inputs).shape
    assert y.numel() == 0
    for gradient, value in zip(torch.autograd.grad(y.sum(), inputs), inputs, strict=True):
        assert gradient.shape == value.shape
        assert not gradient.any()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.causal])
def test_a_changed_sample_changes_nothing_before_it(name: str) -> None:
    case = CASES[name]
    inputs = [x.double() for x in case.inputs(BATCH, 101)]
    other = inputs[0].clone()
    other[..., 60:] = 1e3
    y = case.operator(other, *inputs[1:])[..., :60]
    assert_close(y, case.operator(*inputs)[..., :60], 1e-10)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_memory_full_of_nan_never_reaches_a_result_or_gradient(
    name: str, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    inputs = [x.requires_grad_(recorded) for x in case.inputs(BATCH, 333)]
    for maker in ("empty", "empty_like", "empty_strided"):
        real = getattr(torch, maker)
        monkeypatch.setattr(torch, maker, lambda *a, real=real, **k: real(*a, **k).fill_(float("nan")))
    monkeypatch.setattr(Tensor, "new_empty", lambda t, *a, **k: torch.full(*a, float("nan"), dtype=t.dtype, **k))
    previous = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)  # with it, PyTorch fills what its own operators leave uninitialised
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        y = case.operator(*inputs)
        gradients = torch.autograd.grad(y.square().sum(), inputs) if recorded else ()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = previous
    for value in (y, *gradients):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("name", CASES)
def test_gradcheck_passes_in_float64(name: str) -> None:
    case = CASES[name]
    inputs = [x.double().requires_grad_() for x in case.inputs(BATCH, 7)]
    assert gradcheck(case.operator, inputs, fast_mode=True)


FACTORS: dict[str, tuple[str, ...]] = {
    "causal_conv, direct": ("skip", "bias"),
    "causal_conv, FFT": ("skip", "bias"),
    "fft_conv": ("skip",),
    "gated_conv": ("skip",),
    "modal_conv": ("skip",),
    "gated_modal_conv": ("skip",),
    "selective_scan": ("skip",),
}


@pytest.mark.parametrize("name", FACTORS)
def test_gradients_reach_the_factors_of_each_channel(name: str) -> None:
    case = CASES[name]
    factors = [torch.randn(CHANNELS, dtype=torch.float64) for _ in FACTORS[name]]
    leaves = [x.double().requires_grad_() for x in (*factors, *case.inputs(BATCH, 7))]

    def call(*values: Tensor) -> Tensor:
        options = dict(zip(FACTORS[name], values, strict=False))
        return case.operator(*values[len(options) :], **options)

    assert gradcheck(call, leaves, fast_mode=True)


STATEFUL: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "causal_conv": lambda x, w, s: ops.causal_conv_with_state(x, w, initial_state=s),
    "causal_conv, FFT": lambda x, w, s: ops.causal_conv_with_state(x, w, initial_state=s),
    "gated_conv": lambda z, p, m, s, t: _flat(
        ops.gated_conv_with_state(z, p, m, initial_state=ops.GatedConvState(s, t))
    ),
    "modal_conv": lambda x, p, r, s: ops.modal_conv_with_state(x, p, r, initial_state=s),
    "gated_modal_conv": lambda z, w, p, r, s, t: _flat(
        ops.gated_modal_conv_with_state(z, w, p, r, initial_state=ops.GatedModalState(s, t))
    ),
}
STATES_OF: dict[str, tuple[tuple[int, ...], ...]] = {
    "causal_conv": ((BATCH, CHANNELS, 6),),
    "causal_conv, FFT": ((BATCH, CHANNELS, 149),),
    "gated_conv": ((BATCH, 3 * CHANNELS, 2), (BATCH, CHANNELS, 8)),
    "modal_conv": ((BATCH, CHANNELS, STATES),),
    "gated_modal_conv": ((BATCH, 3 * CHANNELS, 2), (BATCH, CHANNELS, STATES)),
}


def _flat(result: tuple[Tensor, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return result[0], *result[1]


@pytest.mark.parametrize("name", STATEFUL)
def test_gradients_of_an_empty_batch_reach_the_state_before(name: str) -> None:
    inputs = CASES[name if name != "causal_conv" else "causal_conv, direct"].inputs(0, 200)
    states = [torch.randn(0, *shape[1:], requires_grad=True) for shape in STATES_OF[name]]
    y, *_ = STATEFUL[name](*inputs, *states)
    for gradient, state in zip(torch.autograd.grad(y.sum(), states), states, strict=True):
        assert gradient.shape == state.shape


@pytest.mark.parametrize("name", STATEFUL)
def test_gradients_reach_the_state_before_and_come_from_the_state_after(name: str) -> None:
    inputs = CASES[name if name != "causal_conv" else "causal_conv, direct"].inputs(BATCH, 7)
    states = [torch.randn(shape) for shape in STATES_OF[name]]
    leaves = [value.double().requires_grad_() for value in (*inputs, *states)]
    assert gradcheck(STATEFUL[name], leaves, fast_mode=True)


def test_filter_generation_passes_gradcheck_and_keeps_strides_apart() -> None:
    poles, residues = (x.double().requires_grad_() for x in modes())
    assert gradcheck(lambda p, r: ops.modal_filter(p, r, 300), (poles, residues), fast_mode=True)
    spread = ops.modal_filter(_spread(poles.detach()), _spread(residues.detach()), 300)
    assert torch.equal(spread, ops.modal_filter(poles, residues, 300))


@pytest.mark.parametrize("name", ["modal_conv", "selective_scan"])
def test_many_pieces_round_the_gradients_of_what_they_share_no_more_than_one(name: str) -> None:
    inputs = [x.bfloat16() for x in CASES[name].inputs(BATCH, 1000)]

    def gradients(chunk: int | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        y = getattr(ops, name)(*leaves, chunk_size=chunk)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        return torch.autograd.grad(y, leaves, noise.to(dtype))

    exact, whole, pieces = (
        gradients(None, torch.float64),
        gradients(None, inputs[0].dtype),
        gradients(9, inputs[0].dtype),
    )
    for index, each in enumerate(zip(exact, whole, pieces, strict=True)):
        assert_as_exact_as(f"gradient {index}", *each)


def test_pieces_of_a_modal_convolution_are_recomputed_so_that_the_peak_falls() -> None:
    inputs = [x.requires_grad_() for x in (torch.randn(1, 16, 4096), -torch.rand(16, 16), torch.randn(16, 16))]

    def train(chunk: int | None) -> Callable[[], object]:
        return lambda: torch.autograd.grad(ops.modal_conv(*inputs, chunk_size=chunk).sum(), inputs)

    assert peak_bytes(train(512)) < 0.8 * peak_bytes(train(None))
