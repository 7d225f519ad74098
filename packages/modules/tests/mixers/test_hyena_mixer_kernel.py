"""The fused operator of each Hyena mixer, its parts one by one, and the formula: all give the same."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import subquad.modules.mixers.fir as fir
from packages.modules.tests.fake_exchange import FakeExchange, FakeGroup
from packages.modules.tests.operator_calls import FUSED, counted_operators
from subquad.modules import HyenaLong, HyenaMedium, HyenaShort
from subquad.modules.mixers.fused_operators import fused_refusal, mix_one_by_one
from subquad.ops import explain, gated_conv
from subquad.ops.causal_conv.causal_filter import choose_form
from tools.testing.oracle import assert_close

CHANNELS, PROJECTION = 8, 3
KINDS = {"short": HyenaShort, "medium": HyenaMedium, "long": HyenaLong}
LENGTHS = (1, 2, 6, 7, 8, 127, 128, 129, 130, 131, 300)
GATES = list(itertools.product([True, False], repeat=2))


def make(kind: str, *, pregate: bool = True, postgate: bool = True, dtype: torch.dtype = torch.float64) -> Any:
    """Makes a mixer whose filters matter."""
    groups = {} if kind == "long" else {"groups": 4}
    mixer = KINDS[kind](CHANNELS, projection_filter_length=PROJECTION, pregate=pregate, postgate=postgate, **groups).to(
        dtype
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in mixer.named_parameters():
            draw = torch.randn(value.shape, generator=generator)
            value.copy_(-0.05 * torch.exp(draw) if name == "log_poles" else 0.4 * draw)
    return mixer.requires_grad_(False)


def projected(length: int, dtype: torch.dtype = torch.float64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3 * CHANNELS, length, dtype=dtype, generator=torch.Generator().manual_seed(length))


def by_definition(mixer: Any, z: Tensor) -> Tensor:
    """The formula, one sum a sample, in float64."""
    z = z.double()
    length = z.shape[-1]

    def convolved(x: Tensor, taps: Tensor) -> Tensor:
        return torch.stack(
            [
                sum(taps[:, k] * x[..., t - k] for k in range(min(taps.shape[1], t + 1)))  # type: ignore[misc]
                for t in range(length)
            ],
            dim=-1,
        )

    q, k, v = convolved(z, mixer.projection_taps.double()).unflatten(1, (CHANNELS, 3)).unbind(2)
    gated = k * v if mixer.pregate else v
    if isinstance(mixer, HyenaLong):
        times = torch.arange(length, dtype=torch.float64)
        taps = (mixer.residues.double()[..., None] * torch.exp(mixer.poles().double()[..., None] * times)).sum(1)
    else:
        taps = mixer.filter_taps().double().repeat_interleave(CHANNELS // mixer.taps.shape[0], dim=0)
    y = convolved(gated, taps)
    if mixer.D is not None:
        y = y + mixer.D.double()[:, None] * gated
    return q * y if mixer.postgate else y


def fused(mixer: Any, z: Tensor, state: Any = None) -> Tensor:
    return mixer.forward_projected(z, mixer.projection_taps, state=state)[0]


def one_by_one(mixer: Any, z: Tensor, state: Any = None) -> Tensor:
    return mix_one_by_one(mixer, z, mixer.projection_taps, state)


def step(mixer: Any, z: Tensor, state: Any) -> Tensor:
    """One decode step on a column of projected input, as the block does it."""
    from subquad.ops import fir_step

    streams = fir_step(z, mixer.projection_taps, state.projection, state.position)
    q, k, v = streams.unflatten(1, (CHANNELS, 3)).unbind(2)
    return mixer.step(q, k, v, state)


gates = pytest.mark.parametrize(("pregate", "postgate"), GATES)
kinds = pytest.mark.parametrize("kind", KINDS)


@gates
@kinds
@pytest.mark.parametrize("length", LENGTHS)
def test_fused_and_one_by_one_equal_the_formula(kind, pregate, postgate, length, monkeypatch):
    mixer, z = make(kind, pregate=pregate, postgate=postgate), projected(length)
    calls = counted_operators(monkeypatch)
    together = fused(mixer, z)
    assert set(calls) == {"gated_modal_conv" if kind == "long" else "gated_conv"}
    calls.clear()
    apart = one_by_one(mixer, z)
    assert not FUSED & set(calls)
    assert sum(calls.values()) == 2
    expected = by_definition(mixer, z)
    assert_close(together, expected, relative=1e-12)
    assert_close(apart, expected, relative=1e-12)


@gates
@kinds
@pytest.mark.parametrize("first", LENGTHS)
def test_a_chunk_leaves_the_same_state_either_way_and_hands_over_to_decode(kind, pregate, postgate, first):
    mixer, z = make(kind, pregate=pregate, postgate=postgate), projected(first + 2)
    expected = by_definition(mixer, z)
    states = [mixer.init_state(2, max_length=first + 2) for _ in range(2)]
    for state, form in zip(states, (fused, one_by_one), strict=True):
        assert_close(form(mixer, z[..., :first], state), expected[..., :first], relative=1e-12)
        state.advance(first)
    for name, value in states[0].tensors().items():
        assert_close(states[1].tensors()[name], value, relative=1e-12)
    for t in range(first, first + 2):
        for state in states:
            assert_close(step(mixer, z[..., t], state), expected[..., t], relative=1e-12)
            state.advance(1)


@gates
@pytest.mark.parametrize("kind", ["short", "medium"])
def test_a_state_of_decode_goes_on_with_a_chunk_either_way(kind, pregate, postgate):
    mixer, z = make(kind, pregate=pregate, postgate=postgate), projected(40)
    expected = by_definition(mixer, z)
    for form in (fused, one_by_one):
        state = mixer.init_state(2, max_length=40)
        form(mixer, z[..., :3], state)
        state.advance(3)
        for t in (3, 4):
            step(mixer, z[..., t], state)
            state.advance(1)
        assert_close(form(mixer, z[..., 5:], state), expected[..., 5:], relative=1e-12)


@kinds
def test_a_second_prompt_after_the_first_gives_what_it_gives_alone(kind):
    mixer, first, second = make(kind), projected(150), projected(9)
    for form in (fused, one_by_one):
        form(mixer, first)
        assert_close(form(mixer, second), by_definition(mixer, second), relative=1e-12)
        state = mixer.init_state(2, max_length=150)
        form(mixer, first, state)
        state.reset()
        assert_close(form(mixer, second, state), by_definition(mixer, second), relative=1e-12)


def test_an_unflipped_medium_filter_is_found(monkeypatch):
    """The mistake that another library's correlation invites; the comparison above must not pass with it."""

    def unflipped(z, projection_taps, mixer_taps, **options):
        return gated_conv(z, projection_taps, mixer_taps.flip(-1), **options)

    mixer, z = make("medium"), projected(300)
    monkeypatch.setattr(fir, "gated_conv", unflipped)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(fused(mixer, z), by_definition(mixer, z), relative=1e-12)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(fused(mixer, z), one_by_one(mixer, z), relative=1e-12)


def test_a_state_that_always_keeps_the_product_of_the_gates_is_found(monkeypatch):
    """The mistake of seeding decode with ``k * v`` where the pre-gate is off."""
    mixer, z = make("short", pregate=False), projected(20)
    state = mixer.init_state(2, max_length=20)
    monkeypatch.setattr(fir.HyenaFIR, "gated", lambda self, k, v: k * v)
    one_by_one(mixer, z[..., :19], state)
    state.advance(19)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(step(mixer, z[..., 19], state), by_definition(mixer, z)[..., 19], relative=1e-12)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_short_filters_run_directly_and_those_of_128_taps_do_not(device):
    assert choose_form(device, 7, 4096) == "direct"
    assert choose_form(device, 128, 4096) in ("toeplitz", "overlap_save", "fft")


@kinds
def test_on_a_cpu_the_fused_form_is_the_one_in_torch(kind):
    mixer, z = make(kind, dtype=torch.float32), projected(8, torch.float32)
    assert mixer.explain_projected(z, mixer.projection_taps).backend == "torch"
    assert fused_refusal(mixer, z, mixer.projection_taps) is None
    if kind != "long":
        taps = (mixer.projection_taps, mixer.filter_taps())
        assert explain("gated_conv", z, *taps, skip=mixer.D) == mixer.explain_projected(z, mixer.projection_taps)


@kinds
def test_on_a_gpu_without_a_kernel_the_reason_is_told(kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    mixer = make(kind)
    with FakeTensorMode():
        z = torch.empty(1, 3 * CHANNELS, 8, device="cuda")
    reason = fused_refusal(mixer, z, mixer.projection_taps)
    assert "no fused kernel takes it on cuda:0: " in str(reason)
    assert "cuda: there is no CUDA device" in str(reason)
    assert "triton: " in str(reason)


def test_a_split_sequence_has_no_fused_form():
    mixer = make("short")
    mixer.exchange = FakeExchange(FakeGroup(2, 1), 0)
    assert "split over 2 ranks" in str(fused_refusal(mixer, projected(8), mixer.projection_taps))
