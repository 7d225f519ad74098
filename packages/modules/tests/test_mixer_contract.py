"""Every exported mixer keeps the one contract; one that is missing from the table fails."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subquad.modules
from subquad.lazy_config import LazyConfig, fields_of
from subquad.modules import (
    MLP,
    Attention,
    CKConv,
    FilterFiLM,
    GaussianModulation,
    GridMixer,
    Hyena,
    HyenaLong,
    HyenaMedium,
    HyenaShort,
    ImplicitFilter,
    Mixer,
    MultiHeadAttention,
    ProjectedMixer,
    QKVConditionMixer,
    QKVSequenceMixer,
    RandomFourierFilter,
    RMSNorm,
    ShortConvolution,
    SIRENFilter,
)
from subquad.ops import causal_conv, fir_step
from tools.testing.oracle import assert_close

CHANNELS, BATCH, LENGTH, PROJECTION = 16, 2, 150, 3


@dataclasses.dataclass(frozen=True)
class Row:
    """How to make a mixer, and its operations per channel on ``n`` tokens, counted by hand from its formula."""

    make: Callable[..., nn.Module]
    options: dict[str, Any]
    counted: Callable[[int], float]


def transforms(n: int) -> float:
    """Counts, per channel, three transforms over the padded 2 n points, the product of spectra, and the skip term."""
    return 3 * 2.5 * 2 * n * math.log2(2 * n) + 3 * 2 * n + 2 * n


def filter_network(n: int) -> float:
    """Counts, per channel, a SIREN of 1 -> 8 -> 8 -> 8 -> channels at n taps."""
    return n * (2 * (8 + 8 * 8 + 8 * 8 + 8 * CHANNELS) + 3 * 8) / CHANNELS


LONG = LazyConfig(CKConv)(
    channels=CHANNELS,
    trained_size=100,
    causal=True,
    filter_cfg=LazyConfig(SIRENFilter)(hidden_dim=8),
    modulation_cfg=LazyConfig(GaussianModulation)(),
)
SHORT = LazyConfig(ShortConvolution)(filter_size=4, causal=True, bias=True)
MIXERS: dict[type[nn.Module], Row] = {
    HyenaShort: Row(HyenaShort, {"groups": 4, "projection_filter_length": PROJECTION}, lambda n: n * (7 * 2 + 2)),
    HyenaMedium: Row(
        HyenaMedium, {"groups": 4, "projection_filter_length": PROJECTION}, lambda n: n * (128 * 2 + 2 + 2)
    ),
    HyenaLong: Row(HyenaLong, {"projection_filter_length": PROJECTION}, lambda n: n * (16 * 4 + 2 + 2)),
    Attention: Row(Attention, {"num_heads": 4}, lambda n: n * n * 4),
    MultiHeadAttention: Row(MultiHeadAttention, {"num_heads": 4, "causal": True}, lambda n: n * n * 4),
    CKConv: Row(CKConv, fields_of(LONG), lambda n: transforms(n) + filter_network(n)),
    Hyena: Row(
        Hyena,
        {"global_conv_cfg": LONG, "short_conv_cfg": SHORT},
        lambda n: transforms(n) + filter_network(n) + n * (3 * 4 * 2 + 3 + 2),
    ),
}
FUSED = (HyenaShort, HyenaMedium, HyenaLong)
TRAINING_FORMS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    *((kind, {}) for kind in MIXERS),
    (HyenaMedium, {"filter_parameters": "p_gamma"}),
    (HyenaLong, {"filter_parameters": "p_gamma"}),
    (MultiHeadAttention, {"num_key_value_heads": 2, "qk_norm": "rms", "window": 150}),
    (MultiHeadAttention, {"num_key_value_heads": 1, "qk_norm": "l2", "rotary_base": None}),
    (CKConv, {"filter_cfg": LazyConfig(RandomFourierFilter)(hidden_dim=8, embedding_dim=8), "modulation_cfg": None}),
    (Hyena, {"gate_cfg": LazyConfig(nn.SiLU)(), "pixel_norm_cfg": LazyConfig(RMSNorm)(channels=CHANNELS)}),
    (Hyena, {"qk_norm_cfg": LazyConfig(RMSNorm)(channels=CHANNELS)}),
]
every_mixer = pytest.mark.parametrize(
    ("kind", "extra"), TRAINING_FORMS, ids=lambda value: getattr(value, "__name__", None)
)


def make(kind: type[nn.Module], extra: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """Makes a mixer whose filters matter (a medium filter is almost zero at its initial values)."""
    torch.manual_seed(0)
    mixer = MIXERS[kind].make(**{"channels": CHANNELS, **MIXERS[kind].options, **extra})
    for name, value in mixer.named_parameters():
        if name == "taps":
            value.data = 0.3 * torch.randn(value.shape)
    return mixer.to(dtype)


def streams(length: int = LENGTH, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns q, k and v, stacked."""
    return torch.randn(3, BATCH, length, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )


def fit(mixer: Any, qkv: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """Returns as many channels of q, k and v as the mixer takes."""
    widths = getattr(mixer, "stream_channels", (CHANNELS,) * 3)
    return [x[..., :width] for x, width in zip(qkv, widths, strict=True)]


def test_every_exported_mixer_is_in_the_table() -> None:
    exported = {
        value
        for value in vars(subquad.modules).values()
        if inspect.isclass(value) and issubclass(value, nn.Module) and hasattr(value, "flop_count")
    } - {QKVSequenceMixer, QKVConditionMixer, GridMixer, ShortConvolution, FilterFiLM, MLP}
    exported = {kind for kind in exported if not issubclass(kind, ImplicitFilter)}
    assert exported == set(MIXERS)


@every_mixer
def test_the_protocol_is_kept(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    mixer = make(kind, extra)
    assert isinstance(mixer, Mixer)
    assert isinstance(mixer, ProjectedMixer) == (kind in FUSED)


@every_mixer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 2, 7, LENGTH])
def test_shape_and_dtype_are_kept(
    kind: type[nn.Module], extra: dict[str, Any], dtype: torch.dtype, length: int
) -> None:
    mixer, qkv = make(kind, extra, dtype), streams(length, dtype)
    y = mixer(*fit(mixer, qkv))
    assert y.shape == qkv[0].shape
    assert y.dtype == dtype


@every_mixer
def test_bfloat16_is_close_to_float64(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    half, full = make(kind, extra, torch.bfloat16), make(kind, extra, torch.bfloat16).double()
    qkv = streams(dtype=torch.bfloat16)
    assert_close(half(*fit(half, qkv)), full(*fit(full, qkv.double())), relative=2e-2)


@every_mixer
def test_the_future_is_ignored(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    mixer, before = make(kind, extra, torch.float64), streams(dtype=torch.float64)
    after = before.clone()
    after[:, :, 100:] += 1
    y, changed = mixer(*fit(mixer, before)), mixer(*fit(mixer, after))
    assert_close(changed[:, :100], y[:, :100], relative=1e-14)
    assert not torch.allclose(changed[:, 100:], y[:, 100:])


@every_mixer
def test_step_repeated_equals_forward(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    mixer = make(kind, extra)
    q, k, v = fit(mixer, streams())
    state = mixer.init_state(BATCH, max_length=LENGTH)
    steps = []
    with torch.inference_mode():
        for t in range(LENGTH):
            steps.append(mixer.step(q[:, t], k[:, t], v[:, t], state))
            state.advance(1)
        assert_close(torch.stack(steps, 1), mixer(q, k, v), relative=1e-5)


@every_mixer
@pytest.mark.parametrize("chunks", [[75, 75], [1, 2, 147], [6, 1, 127, 16], [149, 1]])
def test_any_chunking_equals_forward(kind: type[nn.Module], extra: dict[str, Any], chunks: list[int]) -> None:
    mixer, qkv = make(kind, extra, torch.float64), streams(dtype=torch.float64)
    state = mixer.init_state(BATCH, max_length=LENGTH, dtype=torch.float64)
    pieces = []
    with torch.inference_mode():
        for q, k, v in (part.unbind(0) for part in qkv.split(chunks, dim=2)):
            pieces.append(mixer.forward(*fit(mixer, (q, k, v)), state=state))
            state.advance(q.shape[1])
        assert_close(torch.cat(pieces, 1), mixer(*fit(mixer, qkv)), relative=1e-12)


@every_mixer
def test_the_fused_form_equals_forward(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    mixer = make(kind, extra, torch.float64)
    if not isinstance(mixer, ProjectedMixer):
        assert kind not in FUSED
        return
    z, taps = streams(dtype=torch.float64).permute(1, 3, 0, 2).flatten(1, 2), mixer.projection_taps
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
def test_gradients_are_finite_and_reach_everything(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    mixer, qkv = make(kind, extra), streams().requires_grad_()
    mixer(*fit(mixer, qkv)).square().sum().backward()
    reached = {"qkv": qkv.grad} | {name: p.grad for name, p in mixer.named_parameters() if name != "projection_taps"}
    for name, gradient in reached.items():
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


@every_mixer
def test_operations_are_counted(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    counted = MIXERS[kind].counted(LENGTH) * CHANNELS
    assert abs(make(kind, extra).flop_count(LENGTH) - counted) <= 0.05 * counted


@every_mixer
def test_state_rows_are_views_and_reset_forgets(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    mixer = make(kind, extra)
    q, k, v = fit(mixer, streams(20))
    state = mixer.init_state(BATCH, max_length=20)
    with torch.inference_mode():
        one = state.rows(1, 1)
        mixer.forward(q[1:], k[1:], v[1:], state=one)
        one.advance(20)
        assert state.position.tolist() == [0, 20]
        state.reset()
        again = mixer.forward(q, k, v, state=state)
        assert_close(again, mixer(q, k, v), relative=1e-5)


@pytest.mark.parametrize("kind", [CKConv, Hyena, MultiHeadAttention])
def test_a_captured_graph_computes_what_the_mixer_computes(kind: type[nn.Module]) -> None:
    mixer = make(kind, {}, torch.float64).eval()
    qkv = fit(mixer, streams(dtype=torch.float64))
    captured = torch.export.export(mixer, tuple(qkv)).module()
    assert_close(captured(*qkv), mixer(*qkv), relative=1e-12)


@every_mixer
def test_inactive_rows_keep_their_state_and_rows_go_on_from_positions_of_their_own(
    kind: type[nn.Module], extra: dict[str, Any]
) -> None:
    mixer, qkv = make(kind, extra, torch.float64), streams(dtype=torch.float64)
    state = mixer.init_state(BATCH, max_length=LENGTH, dtype=torch.float64)
    active, both = torch.tensor([True, False]), torch.tensor([True, True])
    at = torch.zeros(BATCH, dtype=torch.int64)
    with torch.inference_mode():
        for rows in (active, both, active, both):
            held = {name: value[1].clone() for name, value in state.tensors().items()}
            now = torch.stack([qkv[:, row, at[row]] for row in range(BATCH)], dim=1)
            mixer.step(*fit(mixer, now), state, active=rows)
            state.advance(1, rows)
            at += rows
            if not rows[1]:
                assert all(torch.equal(state.tensors()[name][1], value) for name, value in held.items())
        chunk = torch.stack([qkv[:, row, at[row] : at[row] + 9] for row in range(BATCH)], dim=1)
        y = mixer.forward(*fit(mixer, chunk), state=state)
        whole = mixer(*fit(mixer, qkv))
        expected = torch.stack([whole[row, at[row] : at[row] + 9] for row in range(BATCH)])
        assert_close(y, expected, relative=1e-12)


@every_mixer
def test_a_mixer_can_be_made_without_memory(kind: type[nn.Module], extra: dict[str, Any]) -> None:
    mixer = MIXERS[kind].make(**{"channels": CHANNELS, **MIXERS[kind].options, **extra, "device": "meta"})
    assert all(value.is_meta for value in (*mixer.parameters(), *mixer.buffers()))
