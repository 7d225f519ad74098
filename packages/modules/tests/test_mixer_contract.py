"""Every exported mixer keeps the one contract; one that is missing from the table fails."""

import inspect

import pytest
import torch
from torch import nn

import subquad.modules
from packages.modules.tests.mixer_table import BATCH, CASES, CAUSAL, CHANNELS, LENGTH, Case
from packages.modules.tests.operation_counter import by_definition, count
from subquad.modules import (
    MLP,
    FilterFiLM,
    GridMixer,
    ImplicitFilter,
    Mixer,
    MixerState,
    ProjectedAttention,
    ProjectedMixer,
    QKVConditionMixer,
    QKVSequenceMixer,
    ShortConvolution,
    StateUnsupported,
)
from subquad.ops import causal_conv, dispatch, fir_step
from tools.testing.oracle import assert_close

NO_MIXERS = (
    QKVSequenceMixer,
    QKVConditionMixer,
    GridMixer,
    ShortConvolution,
    FilterFiLM,
    ImplicitFilter,
    MLP,
    ProjectedAttention,  # Attention, which is in the table, with its linears
)
every_mixer = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_causal_mixer = pytest.mark.parametrize("case", CAUSAL, ids=lambda case: case.name)


def exported_mixers() -> set[type[nn.Module]]:
    """What the package exports and counts operations, other than its parts and wrappers."""
    return {
        value
        for value in vars(subquad.modules).values()
        if inspect.isclass(value) and issubclass(value, nn.Module) and hasattr(value, "flop_count")
        if hasattr(value, "init_state") and not issubclass(value, NO_MIXERS)
    }


def test_every_exported_mixer_is_in_the_table() -> None:
    assert exported_mixers() == {case.kind for case in CASES}


def test_an_exported_mixer_outside_the_table_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgotten(subquad.modules.StateSpace):
        """A mixer that nobody put in the table."""

    monkeypatch.setattr(subquad.modules, "Forgotten", Forgotten, raising=False)
    assert exported_mixers() - {case.kind for case in CASES} == {Forgotten}


@every_mixer
def test_the_protocol_is_kept(case: Case) -> None:
    mixer = case.make()
    assert isinstance(mixer, Mixer)
    assert isinstance(mixer, ProjectedMixer) == case.fused
    if case.causal:
        assert isinstance(mixer.init_state(BATCH, max_length=4), MixerState)
    else:
        with pytest.raises(StateUnsupported, match=f"{case.kind.__name__} cannot continue"):
            mixer.init_state(BATCH, max_length=4)


@every_mixer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_dtype_are_kept(case: Case, dtype: torch.dtype) -> None:
    mixer = case.make(dtype)
    for length in (1, 2, 7, LENGTH) if case.causal else (None,):
        qkv = case.streams(mixer, dtype, length)
        y = mixer(*qkv)
        assert y.shape == (*qkv[2].shape[:-1], getattr(mixer, "output_channels", CHANNELS))
        assert y.dtype == dtype


@every_mixer
def test_bfloat16_is_close_to_float64(case: Case) -> None:
    half, full = case.make(torch.bfloat16), case.make(torch.bfloat16).double()
    qkv = case.streams(half, torch.bfloat16)
    assert_close(half(*qkv), full(*(x.double() for x in qkv)), relative=2e-2)


@every_causal_mixer
def test_the_future_is_ignored(case: Case) -> None:
    mixer = case.make(torch.float64)
    before = case.streams(mixer, torch.float64)
    after = [x.clone() for x in before]
    for x in after:
        x[:, 100:] += 1
    y, changed = mixer(*before), mixer(*after)
    assert_close(changed[:, :100], y[:, :100], relative=1e-14)
    assert not torch.allclose(changed[:, 100:], y[:, 100:])


@every_causal_mixer
def test_step_repeated_equals_forward(case: Case) -> None:
    mixer = case.make()
    q, k, v = case.streams(mixer)
    state = mixer.init_state(BATCH, max_length=LENGTH)
    steps = []
    with torch.inference_mode():
        for t in range(LENGTH):
            steps.append(mixer.step(q[:, t], k[:, t], v[:, t], state))
            state.advance(1)
        assert_close(torch.stack(steps, 1), mixer(q, k, v), relative=1e-5)


@every_causal_mixer
@pytest.mark.parametrize("chunks", [[75, 75], [1, 2, 147], [6, 1, 127, 16], [149, 1]])
def test_any_chunking_equals_forward(case: Case, chunks: list[int]) -> None:
    mixer = case.make(torch.float64)
    qkv = case.streams(mixer, torch.float64)
    state = mixer.init_state(BATCH, max_length=LENGTH, dtype=torch.float64)
    pieces = []
    with torch.inference_mode():
        for part in zip(*(x.split(chunks, dim=1) for x in qkv), strict=True):
            pieces.append(mixer.forward(*part, state=state))
            state.advance(part[2].shape[1])
        assert_close(torch.cat(pieces, 1), mixer(*qkv), relative=1e-12)


@every_causal_mixer
def test_steps_between_chunks_equal_forward(case: Case) -> None:
    mixer = case.make(torch.float64)
    qkv = case.streams(mixer, torch.float64)
    state = mixer.init_state(BATCH, max_length=LENGTH, dtype=torch.float64)
    pieces = []
    with torch.inference_mode():
        for part in zip(*(x.split([1, 1, 1, 13, 1, 1, 50, *[1] * 14, 68], dim=1) for x in qkv), strict=True):
            if part[2].shape[1] == 1:
                pieces.append(mixer.step(*(x[:, 0] for x in part), state).unsqueeze(1))
            else:
                pieces.append(mixer.forward(*part, state=state))
            state.advance(part[2].shape[1])
        assert_close(torch.cat(pieces, 1), mixer(*qkv), relative=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case.fused], ids=lambda case: case.name)
def test_the_fused_form_equals_forward(case: Case) -> None:
    mixer = case.make(torch.float64)
    assert isinstance(mixer, ProjectedMixer)
    z = torch.stack(case.streams(mixer, torch.float64)).permute(1, 3, 0, 2).flatten(1, 2)
    taps = mixer.projection_taps
    q, k, v = (x.transpose(1, 2) for x in causal_conv(z, taps).unflatten(1, (CHANNELS, 3)).unbind(2))
    whole = mixer(q, k, v).transpose(1, 2)
    fused, no_state = mixer.forward_projected(z, taps)
    assert no_state is None
    assert_close(fused, whole, relative=1e-12)

    state = mixer.init_state(BATCH, max_length=LENGTH, dtype=torch.float64)
    pieces = []
    with torch.inference_mode():
        for part in z[:, :, :-1].split([1, 4, 130, 14], dim=2):
            y, returned = mixer.forward_projected(part, taps, state=state)
            assert returned is state
            pieces.append(y)
            state.advance(part.shape[2])
        last = fir_step(z[:, :, -1], taps, state.projection, state.position)
        pieces.append(mixer.step(*last.unflatten(1, (CHANNELS, 3)).unbind(2), state).unsqueeze(2))
    assert_close(torch.cat(pieces, 2), whole, relative=1e-12)


@every_mixer
def test_gradients_are_finite_and_reach_everything(case: Case) -> None:
    mixer = case.make()
    qkv = [x.requires_grad_() for x in case.streams(mixer)]
    mixer(*qkv).square().sum().backward()
    reached = {name: x.grad for name, x in zip("qkv", qkv, strict=True) if x.shape[-1]}
    reached |= {name: p.grad for name, p in mixer.named_parameters() if name != "projection_taps"}
    for name, gradient in reached.items():
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


@every_mixer
def test_operations_are_those_that_a_counter_sees(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = case.make()
    qkv = [x[:1] for x in case.streams(mixer)]
    monkeypatch.setattr(dispatch, "choose", by_definition)
    counted = count(lambda: mixer(*qkv))
    stated = mixer.flop_count(LENGTH if case.causal else case.space)
    assert abs(stated - counted) <= 0.05 * counted, f"stated {stated}, counted {counted:.0f}"


@every_causal_mixer
def test_state_rows_are_views_and_reset_forgets(case: Case) -> None:
    mixer = case.make()
    q, k, v = case.streams(mixer, length=20)
    state = mixer.init_state(BATCH, max_length=20)
    with torch.inference_mode():
        one = state.rows(1, 1)
        mixer.forward(q[1:], k[1:], v[1:], state=one)
        one.advance(20)
        assert state.position.tolist() == [0, 20]
        state.reset()
        again = mixer.forward(q, k, v, state=state)
        assert_close(again, mixer(q, k, v), relative=1e-5)


@pytest.mark.parametrize("name", ["ckconv_causal", "hyena_causal", "heads_causal", "state_space_2d", "mamba_2_2d_axes"])
def test_a_captured_graph_computes_what_the_mixer_computes(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    mixer = case.make(torch.float64).eval()
    qkv = case.streams(mixer, torch.float64)
    captured = torch.export.export(mixer, tuple(qkv)).module()
    assert_close(captured(*qkv), mixer(*qkv), relative=1e-12)


@every_causal_mixer
def test_inactive_rows_keep_their_state_and_rows_go_on_from_positions_of_their_own(case: Case) -> None:
    mixer = case.make(torch.float64)
    qkv = case.streams(mixer, torch.float64)
    state = mixer.init_state(BATCH, max_length=LENGTH, dtype=torch.float64)
    active, both = torch.tensor([True, False]), torch.tensor([True, True])
    at = torch.zeros(BATCH, dtype=torch.int64)
    with torch.inference_mode():
        for rows in (active, both, active, both):
            held = {name: value[1].clone() for name, value in state.tensors().items()}
            now = [torch.stack([x[row, at[row]] for row in range(BATCH)]) for x in qkv]
            mixer.step(*now, state, active=rows)
            state.advance(1, rows)
            at += rows
            if not rows[1]:
                assert all(torch.equal(state.tensors()[name][1], value) for name, value in held.items())
        chunk = [torch.stack([x[row, at[row] : at[row] + 9] for row in range(BATCH)]) for x in qkv]
        y = mixer.forward(*chunk, state=state)
        whole = mixer(*qkv)
        expected = torch.stack([whole[row, at[row] : at[row] + 9] for row in range(BATCH)])
        assert_close(y, expected, relative=1e-12)


@every_mixer
def test_a_mixer_can_be_made_without_memory(case: Case) -> None:
    mixer = case.make(device="meta")
    assert all(value.is_meta for value in (*mixer.parameters(), *mixer.buffers()))
