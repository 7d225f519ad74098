"""Any layer can be exchanged for one from outside while no file of this package changes.

Below: an operator backend of a third party, found by its entry point. Beside: an exchange between ranks. Inside: a
mixer and a filter that this package has never seen.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subquad.modules
from packages.modules.tests.fake_exchange import FakeExchange, FakeGroup
from packages.modules.tests.mixer_table import BATCH, CASES, CHANNELS, Case
from subquad.lazy_config import LazyConfig, instantiate
from subquad.modules import (
    MLP,
    AdaLNZeroBlock,
    Attention,
    CKConv,
    Filter,
    HyenaLong,
    Mamba,
    Mixer,
    MixerState,
    QKVConditionMixer,
    QKVSequenceMixer,
    ResidualBlock,
    RMSNorm,
    SequenceExchange,
    StripedHyena2,
)
from tools.testing.oracle import assert_close

BACKEND = '''
"""A backend that does what the portable form does, and keeps count."""

import importlib

from subquad.ops.dispatch import Implementation

CALLS = []


def offer():
    def implementation(operator):
        def run(*tensors, **arguments):
            CALLS.append(operator)
            return importlib.import_module(f"subquad.ops.{operator}.{operator}").compute_in_torch(*tensors, **arguments)

        return Implementation("elsewhere", operator, lambda call: None, run)

    names = ("fft_conv", "gated_conv", "gated_modal_conv", "modal_conv", "modal_step", "selective_scan")
    return [implementation(name) for name in names]
'''


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Installs a distribution that offers the backend "elsewhere"; returns the list of operators it was asked for."""
    (tmp_path / "subquad_elsewhere.py").write_text(BACKEND)
    information = tmp_path / "subquad_elsewhere-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: subquad-elsewhere\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[subquad.ops.backends]\nelsewhere = subquad_elsewhere:offer\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import subquad_elsewhere  # type: ignore[import-not-found]

    subquad_elsewhere.CALLS.clear()
    return subquad_elsewhere.CALLS


def test_a_network_takes_the_operators_of_a_third_party(calls: list[str]) -> None:
    sizes = {"pattern": "SDH*", "hidden_size": 16, "num_heads": 2, "inner_size": 24, "filter_groups": 4}
    portable, other = (
        StripedHyena2(**sizes, backend=backend, dtype=torch.float64) for backend in ("torch", "elsewhere")
    )
    other.load_state_dict(portable.state_dict())
    ids = torch.randint(65, 80, (2, 150))
    assert_close(other(ids), portable(ids), relative=1e-13)
    assert calls == ["gated_conv", "gated_conv", "gated_modal_conv"]


NAMES = ("ckconv_causal", "ckconv_2d_circular", "state_space_causal", "state_space_2d", "mamba", "mamba_2_2d_axes")


@pytest.mark.parametrize("case", [case for case in CASES if case.name in NAMES], ids=lambda case: case.name)
def test_the_operators_of_a_third_party_are_used(case: Case, calls: list[str]) -> None:
    portable, mixer = case.make(torch.float64), case.make(torch.float64, backend="elsewhere")
    qkv = case.streams(mixer, torch.float64)
    assert_close(mixer(*qkv), portable(*qkv), relative=1e-14)
    expected = {CKConv: "fft_conv", subquad.modules.StateSpace: "modal_conv", Mamba: "selective_scan"}
    assert set(calls) == {expected[case.kind]}
    if case.causal:
        state = mixer.init_state(BATCH, max_length=12, dtype=torch.float64)
        calls.clear()
        head = [x[:, :11] for x in qkv]
        mixer.forward(*head, state=state)
        state.advance(11)
        mixer.step(*(x[:, 11] for x in qkv), state)
        assert calls


@pytest.mark.parametrize("kind", [HyenaLong, Attention, Mamba])
def test_the_exchange_of_a_third_party_is_used(kind: Any) -> None:
    group = FakeGroup(2, 2)
    options = {"num_heads": 4} if kind is Attention else {}
    mixers = [kind(CHANNELS, exchange=FakeExchange(group, rank), **options).double() for rank in range(2)]
    assert isinstance(mixers[0].exchange, SequenceExchange)
    whole = kind(CHANNELS, **options).double()
    for mixer in mixers:
        mixer.load_state_dict(whole.state_dict())
    qkv = [
        torch.randn(2, 64, width, dtype=torch.float64) for width in getattr(whole, "stream_channels", [CHANNELS] * 3)
    ]
    folded = [[_folded(group.split(x, rank)) for x in qkv] for rank in range(2)]
    shards = group.on_every_rank(lambda rank: mixers[rank](*folded[rank]))
    merged = group.merge([torch.cat(shard.chunk(2), dim=1) for shard in shards])
    assert_close(merged, whole(*qkv), relative=1e-12)
    expected = {
        HyenaLong: {"carry_state"},
        Attention: {"gather_heads", "scatter_heads"},
        Mamba: {"left_halo", "to_channels", "to_sequence"},
    }
    assert set(group.calls) == expected[kind]


def _folded(x: Tensor) -> Tensor:
    """Puts the two runs of a rank into the batch axis."""
    return torch.cat(x.chunk(2, dim=1))


class RunningMean(nn.Module):
    """A mixer from outside: the mean of v so far, gated by q. It keeps the contract and inherits nothing of ours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, state: MixerState | None = None) -> Tensor:
        points = v.flatten(1, -2)
        count = torch.arange(1, points.shape[1] + 1, device=v.device).unsqueeze(1)
        return q * self.factor * (points.cumsum(1) / count).view(v.shape)

    def init_state(self, batch_size: int, *, max_length: int, device: Any = None, dtype: Any = None) -> MixerState:
        return MixerState(torch.zeros(batch_size, dtype=torch.int64))

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: MixerState, *, active: Tensor | None = None) -> Tensor:
        return q * self.factor * v

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        return 4 * self.factor.numel() * (length if isinstance(length, int) else 1)


@pytest.mark.parametrize("space", [(9,), (3, 4)])
def test_a_mixer_of_a_third_party_works_in_every_block(space: tuple[int, ...]) -> None:
    assert isinstance(RunningMean(4), Mixer)
    mixer, norm = LazyConfig(RunningMean)(channels=8), LazyConfig(RMSNorm)(channels=8)
    mixing, mlp = LazyConfig(QKVSequenceMixer)(hidden_dim=8, mixer_cfg=mixer), LazyConfig(MLP)(channels=8)
    cross = LazyConfig(QKVConditionMixer)(hidden_dim=8, mixer_cfg=mixer)
    x, condition = torch.randn(2, *space, 8), torch.randn(2, 8)
    for block, given in (
        (LazyConfig(ResidualBlock)(sequence_mixer_cfg=mixing, norm_cfg=norm, mlp_cfg=mlp, layer_scale=0.1), {}),
        (
            LazyConfig(ResidualBlock)(sequence_mixer_cfg=mixing, norm_cfg=norm, condition_mixer_cfg=cross),
            {"condition": condition},
        ),
        (
            LazyConfig(AdaLNZeroBlock)(hidden_dim=8, sequence_mixer_cfg=mixing, norm_cfg=norm, mlp_cfg=mlp),
            {"condition": condition},
        ),
    ):
        assert instantiate(block)(x, **given).shape == x.shape


class Bump(nn.Module):
    """A filter from outside: a bell over the offsets, one width a channel."""

    takes_condition = False

    def __init__(self, channels: int, data_dim: int, trained_reach: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.linspace(1, 2, channels, device=device, dtype=dtype))

    def forward(self, offsets: tuple[range, ...], condition: Tensor | None = None) -> Tensor:
        axes = torch.meshgrid(*(torch.tensor(list(span)).to(self.width) for span in offsets), indexing="ij")
        square = torch.stack([axis.square() for axis in axes]).sum(0)
        return torch.exp(-square / self.width.view(-1, *[1] * len(axes)) ** 2).unsqueeze(0)

    def flop_count(self, taps: int) -> int:
        return 3 * taps * self.width.numel()


def test_a_filter_of_a_third_party_works_in_a_convolution() -> None:
    model = CKConv(4, LazyConfig(Bump)(), trained_size=8, data_dim=2)
    assert isinstance(model.filter, Filter)
    impulse = torch.zeros(1, 7, 7, 4)
    impulse[:, 3, 3] = 1
    with torch.no_grad():
        model.skip.zero_()
        y = model.convolve(impulse)
        assert_close(y[0].movedim(-1, 0), model.filter((range(-3, 4),) * 2)[0], relative=1e-5)
    assert model.flop_count((7, 7)) - model.flop_count((7, 7), cached=True) > 3 * 13 * 13 * 4


def test_no_layer_above_is_named_in_this_package() -> None:
    sources = list(Path(next(iter(subquad.modules.__path__))).rglob("*.py"))
    assert len(sources) > 30
    for source in sources:
        text = source.read_text()
        for above in ("subquad.parallel", "subquad.inference", "torch.distributed"):
            assert above not in text, f"{source.name} names {above}"
