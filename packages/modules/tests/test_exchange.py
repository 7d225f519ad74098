"""A sequence split over ranks gives the outputs and gradients of one rank."""

import pytest
import torch
from torch import Tensor

from packages.modules.tests import mixer_table
from packages.modules.tests.fake_exchange import FakeExchange, FakeGroup
from packages.modules.tests.mixer_table import Case, long
from packages.modules.tests.support import TINY, lively_model, random_ids
from subquad.lazy_config import LazyConfig
from subquad.modules import (
    Attention,
    ConfigurationError,
    ExchangeUnsupported,
    Hyena,
    HyenaLong,
    HyenaMedium,
    HyenaShort,
    InputMismatch,
    LocalExchange,
    Mamba,
    MultiHeadAttention,
    RegisterAttention,
    SequenceExchange,
    ShortConvolution,
    StateSpace,
    StripedHyena2,
)
from subquad.modules.mixers.split_recurrence import ReversedExchange, entering_states
from tools.testing.oracle import assert_close

# Ranks, runs per rank, length: medium filters reach past the runs of the short ones, not of the last.
CASES = [(2, 1, 64), (2, 2, 64), (4, 2, 64), (2, 2, 512)]


def rank_models(group: FakeGroup, weights: dict[str, Tensor]) -> list[StripedHyena2]:
    models = [StripedHyena2(**TINY, exchange=FakeExchange(group, rank)).double() for rank in range(group.size)]
    for model in models:
        model.load_state_dict(weights)
    return models


@pytest.mark.parametrize(("size", "segments", "length"), CASES)
def test_a_split_network_equals_the_whole_one(size: int, segments: int, length: int) -> None:
    group, whole_model, ids = FakeGroup(size, segments), lively_model(seed=20), random_ids(2, length, seed=21)
    models = rank_models(group, whole_model.state_dict())
    weight = torch.randn(2, length, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = whole_model(ids)
    (whole * weight).sum().backward()
    split = group.merge(group.on_every_rank(lambda rank: models[rank](group.split(ids, rank))))
    (split * weight).sum().backward()
    assert_close(split, whole, relative=1e-12)
    for name, parameter in whole_model.named_parameters():
        gradients = [dict(model.named_parameters())[name].grad for model in models]
        assert parameter.grad is not None
        assert_close(torch.stack([g for g in gradients if g is not None]).sum(0), parameter.grad, relative=1e-10)


def test_a_medium_filter_that_fits_a_run_takes_a_halo_and_a_longer_one_trades_channels() -> None:
    weights, ids = lively_model().state_dict(), random_ids(1, 512)
    for length, trades in ((512, False), (128, True)):
        group = FakeGroup(2, 2)
        models = rank_models(group, weights)
        group.on_every_rank(lambda rank, m=models, g=group, n=length: m[rank](g.split(ids[:, :n], rank)))
        assert ("to_channels" in group.calls) is trades, length


@pytest.mark.parametrize("kind", [HyenaShort, HyenaMedium, HyenaLong, Attention])
def test_a_split_mixer_equals_the_whole_one_from_streams(kind: type) -> None:
    group = FakeGroup(2, 1)

    def make(exchange: SequenceExchange) -> torch.nn.Module:
        options = {HyenaShort: {"groups": 4}, HyenaMedium: {"groups": 4}, Attention: {"num_heads": 4}}.get(kind, {})
        mixer = kind(16, exchange=exchange, **options).double()
        for index, value in enumerate(mixer.parameters()):
            drawn = torch.rand(value.shape, generator=torch.Generator().manual_seed(index), dtype=value.dtype)
            value.data = -0.2 * drawn if kind is HyenaLong and value is mixer.log_poles else drawn - 0.5
        return mixer

    streams = torch.randn(3, 2, 300, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    mixers = [make(FakeExchange(group, rank)) for rank in range(2)]
    shards = group.on_every_rank(lambda rank: mixers[rank](*(group.split(stream, rank) for stream in streams)))
    assert_close(group.merge(shards), make(LocalExchange())(*streams), relative=1e-12)


SPLIT = (
    "ckconv_causal",
    "ckconv_zero",
    "hyena_causal",
    "hyena_norms",
    "hyena_two_sided",
    "state_space_causal",
    "state_space",
    "heads_causal",
    "heads_shared_window",
    "heads_two_sided",
    "mamba",
    "mamba_2",
    "mamba_bidirectional",
    "mamba_2_two_sided",
)
SHORT = LazyConfig(ShortConvolution)(bias=True)
BOTH_WAYS = (
    Case("hyena_two_sided", Hyena, {"global_conv_cfg": long(), "short_conv_cfg": SHORT}),
    Case("heads_two_sided", MultiHeadAttention, {"num_heads": 4, "num_key_value_heads": 2, "qk_norm": "l2"}),
    Case("mamba_2_two_sided", Mamba, {**mixer_table.MAMBA_2, "bidirectional": True, "chunk_size": 7}),
)


SPLIT_CASES = [case for case in (*mixer_table.CASES, *BOTH_WAYS) if case.name in SPLIT]


@pytest.mark.parametrize("case", SPLIT_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(("size", "segments"), [(2, 1), (2, 2)])
def test_split_streams_give_the_outputs_and_gradients_of_whole_ones(case: Case, size: int, segments: int) -> None:
    group, whole_mixer = FakeGroup(size, segments), case.make(torch.float64)
    mixers = [case.make(torch.float64, exchange=FakeExchange(group, rank)) for rank in range(size)]
    qkv = [x.requires_grad_() for x in case.streams(whole_mixer, torch.float64, length=96)]
    whole = whole_mixer(*qkv)
    weight = torch.randn(whole.shape, dtype=torch.float64)
    (whole * weight).sum().backward()
    expected = [x.grad.clone() for x in qkv if x.grad is not None and x.numel()]
    for x in qkv:
        x.grad = None

    def work(rank: int) -> Tensor:
        y = mixers[rank](*(torch.cat(group.split(x, rank).chunk(segments, dim=1)) for x in qkv))
        return torch.cat(y.chunk(segments), dim=1)

    split = group.merge(group.on_every_rank(work))
    (split * weight).sum().backward()
    assert_close(split, whole, relative=1e-12)
    for gradient, wanted in zip([x.grad for x in qkv if x.numel()], expected, strict=True):
        assert gradient is not None
        assert_close(gradient, wanted, relative=1e-10)
    for name, parameter in whole_mixer.named_parameters():
        gradients = [dict(mixer.named_parameters())[name].grad for mixer in mixers]
        assert parameter.grad is not None
        assert_close(torch.stack([g for g in gradients if g is not None]).sum(0), parameter.grad, relative=1e-10)


@pytest.mark.parametrize("backwards", [False, True])
def test_states_of_runs_that_decay_by_factors_of_their_own_are_carried_in_reading_order(backwards: bool) -> None:
    """Of three ranks and nine numbers, which do not share evenly."""
    group, runs = FakeGroup(3, 2), 6
    decay, reached, samples = torch.rand(
        3, 2, runs, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    order = range(runs - 1, -1, -1) if backwards else range(runs)
    expected, state, before, halo = {}, torch.zeros(2, 3, 3), {}, torch.zeros(2, 3, 2)
    for run in order:
        expected[run], before[run] = state, halo
        state = decay[:, run] * state + reached[:, run]
        halo = (samples[:, run].flip(-1) if backwards else samples[:, run])[..., -2:]

    def work(rank: int) -> list[Tensor]:
        exchange = FakeExchange(group, rank)
        read = ReversedExchange(exchange) if backwards else exchange
        mine = [group.run_of(rank, segment) for segment in range(2)]
        own = [torch.cat([x[:, run] for run in mine]) for x in (decay, reached, samples)]
        carried = entering_states(read, *own[:2])
        same = read.carry_state(torch.full((3, 3), 0.5, dtype=torch.float64), own[1])
        assert_close(same, entering_states(read, torch.full_like(own[0], 0.5), own[1]), relative=1e-13)
        wanted = torch.cat([expected[run] for run in mine]), torch.cat([before[run] for run in mine])
        return [carried, wanted[0], read.left_halo(own[2].flip(-1) if backwards else own[2], 2), wanted[1]]

    for carried, wanted, taken, wanted_halo in group.on_every_rank(work):
        assert_close(carried, wanted, relative=1e-13)
        assert torch.equal(taken, wanted_halo)


def test_runs_shorter_than_the_filter_trade_channels() -> None:
    group, whole = FakeGroup(2, 2), Mamba(4, bidirectional=True, filter_size=5).double()
    mixers = [Mamba(4, bidirectional=True, filter_size=5, exchange=FakeExchange(group, r)).double() for r in range(2)]
    for mixer in mixers:
        mixer.load_state_dict(whole.state_dict())
    qkv = [torch.randn(1, 12, width, dtype=torch.float64) for width in whole.stream_channels]

    def work(rank: int) -> Tensor:
        y = mixers[rank](*(torch.cat(group.split(x, rank).chunk(2, dim=1)) for x in qkv))
        return torch.cat(y.chunk(2), dim=1)

    assert_close(group.merge(group.on_every_rank(work)), whole(*qkv), relative=1e-12)


def test_every_mixer_of_sequences_is_tried_on_a_split_one() -> None:
    """All but the attention whose tokens are a grid and registers; a new mixer has to come with an exchange."""
    tried = {HyenaShort, HyenaMedium, HyenaLong, Attention} | {case.kind for case in SPLIT_CASES}
    assert {case.name for case in SPLIT_CASES} == set(SPLIT)
    assert tried == {case.kind for case in mixer_table.CASES} - {RegisterAttention}


@pytest.mark.parametrize("name", ["ckconv_causal", "hyena_causal", "state_space_causal", "heads_causal", "mamba"])
def test_split_streams_have_no_state(name: str) -> None:
    case = next(case for case in mixer_table.CASES if case.name == name)
    mixer = case.make(exchange=FakeExchange(FakeGroup(2, 1), 0))
    state = case.make().init_state(2, max_length=8)
    qkv = case.streams(mixer, length=4)
    with pytest.raises(ExchangeUnsupported, match="split over 2 ranks"):
        mixer.forward(*qkv, state=state)
    with pytest.raises(ExchangeUnsupported, match="split over 2 ranks"):
        mixer.step(*(x[:, 0] for x in qkv), state)


def test_ranks_share_sequences_and_heads_that_divide() -> None:
    exchange = FakeExchange(FakeGroup(2, 1), 0)
    with pytest.raises(ConfigurationError, match="2 ranks cannot share a grid of 2 axes"):
        StateSpace(4, data_dim=2, exchange=exchange)
    with pytest.raises(ConfigurationError, match="2 ranks cannot share a grid of 3 axes"):
        Mamba(4, data_dim=3, exchange=exchange)
    with pytest.raises(ConfigurationError, match="1 key and value heads cannot be shared by 2 ranks"):
        MultiHeadAttention(8, num_heads=2, num_key_value_heads=1, exchange=exchange)


def test_a_state_on_a_split_sequence_is_refused() -> None:
    group = FakeGroup(2, 2)
    model = StripedHyena2(**TINY, exchange=FakeExchange(group, 0))
    with pytest.raises(ExchangeUnsupported, match="split over 2 ranks"):
        model.encode(random_ids(1, 8), model.init_state(1, max_length=8))
    with pytest.raises(InputMismatch, match="7 tokens cannot be cut into the 2 equal runs"):
        model(random_ids(1, 7))


def test_the_local_exchange_moves_nothing() -> None:
    exchange = LocalExchange()
    x = torch.randn(2, 3, 8)
    assert isinstance(exchange, SequenceExchange)
    assert exchange.size == 1
    assert exchange.rank == 0
    assert torch.equal(exchange.left_halo(x, 4), torch.zeros(2, 3, 4))
    assert exchange.to_channels(x) is x
    assert exchange.to_sequence(x) is x
    assert torch.equal(exchange.carry_state(torch.ones(3, 5), torch.ones(2, 3, 5)), torch.zeros(2, 3, 5))
    assert exchange.gather_heads(x[..., None]) is not None
    assert exchange.scatter_heads(x[..., None]) is not None
