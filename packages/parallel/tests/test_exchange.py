"""A sequence split over real processes gives the values, gradients and bytes that one process and the formulas give."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from packages.parallel.tests.exchange_workers import (
    BATCH,
    CHANNELS,
    HEADS,
    LENGTH,
    STATES,
    everything,
    fold,
    ids_and_weights,
    network,
    random,
)
from packages.parallel.tests.ranks import run_on_ranks
from subquad.modules import LocalExchange, SequenceExchange, StripedHyena2
from subquad.parallel import ContextExchange, use_exchange, zigzag_merge, zigzag_split
from subquad.parallel.traffic import all_to_all_bytes, halo_bytes, state_bytes
from tools.testing.oracle import assert_close

BYTES = 8


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What each of two or four processes computed."""
    return run_on_ranks(everything, request.param)


def chunks(x: Tensor, size: int) -> list[Tensor]:
    return list(x.chunk(2 * size, dim=-1))


def own(x: Tensor, size: int, rank: int) -> Tensor:
    return fold(zigzag_split(x, size=size, rank=rank))


def check(ranks: list[dict[str, Any]], name: str, expected: list[Tensor], leaves: list[Tensor], seed: int) -> None:
    """Compares values by rank, and the gradients of whole inputs with those that the ranks got for their shares."""
    size = len(ranks)
    loss = sum((value * random(*value.shape, seed=seed + rank)).sum() for rank, value in enumerate(expected))
    gradients = torch.autograd.grad(loss, leaves)  # type: ignore[arg-type]
    for rank, results in enumerate(ranks):
        outcome = results["methods"][name]
        assert_close(outcome.value, expected[rank].detach(), relative=1e-12)
        assert_close(outcome.gradients[0], own(gradients[0], size, rank), relative=1e-12)
    for index, gradient in enumerate(gradients[1:], start=1):
        summed = torch.stack([results["methods"][name].gradients[index] for results in ranks]).sum(0)
        assert_close(summed, gradient, relative=1e-12)


@pytest.mark.parametrize("n", [1, 6, "whole run"])
def test_the_halo_is_what_precedes_each_run(ranks: list[dict[str, Any]], n: int | str):
    size = len(ranks)
    taps = n if isinstance(n, int) else LENGTH // (2 * size)
    x = random(BATCH, CHANNELS, LENGTH, seed=1).requires_grad_()
    padded = torch.cat([x.new_zeros(BATCH, CHANNELS, taps), x], dim=-1)
    run = LENGTH // (2 * size)
    halos = [padded[..., i * run : i * run + taps] for i in range(2 * size)]
    expected = [torch.cat([halos[rank], halos[2 * size - 1 - rank]]) for rank in range(size)]
    check(ranks, f"left_halo_{taps}", expected, [x], 100)
    for rank, results in enumerate(ranks):
        sizes = {"batch": BATCH, "channels": CHANNELS, "taps": taps + 1, "size": size, "rank": rank}
        assert results["methods"][f"left_halo_{taps}"].sent_bytes == halo_bytes(**sizes, element_size=BYTES)


def test_channels_come_with_the_whole_sequence_in_order(ranks: list[dict[str, Any]]):
    size = len(ranks)
    x = random(BATCH, CHANNELS, LENGTH, seed=1).requires_grad_()
    check(ranks, "to_channels", list(x.chunk(size, dim=1)), [x], 200)
    one_way = all_to_all_bytes(batch=BATCH, channels=CHANNELS, length=LENGTH, size=size, element_size=BYTES)
    for results in ranks:
        assert results["methods"]["to_channels"].sent_bytes == one_way
        assert results["methods"]["round_trip"].sent_bytes == 2 * one_way


def test_to_sequence_deals_the_sequence_out_again(ranks: list[dict[str, Any]]):
    size = len(ranks)
    shares = [random(BATCH, CHANNELS // size, LENGTH, seed=10 + rank).requires_grad_() for rank in range(size)]
    whole = torch.cat(shares, dim=1)
    expected = [own(whole, size, rank) for rank in range(size)]
    loss = sum((value * random(*value.shape, seed=300 + rank)).sum() for rank, value in enumerate(expected))
    gradients = torch.autograd.grad(loss, shares)  # type: ignore[arg-type]
    for rank, results in enumerate(ranks):
        assert_close(results["methods"]["to_sequence"].value, expected[rank].detach(), relative=1e-12)
        assert_close(results["methods"]["to_sequence"].gradients[0], gradients[rank], relative=1e-12)


def test_there_and_back_changes_nothing(ranks: list[dict[str, Any]]):
    x = random(BATCH, CHANNELS, LENGTH, seed=1).requires_grad_()
    check(ranks, "round_trip", [own(x, len(ranks), rank) for rank in range(len(ranks))], [x], 400)
    heads = random(BATCH, HEADS * 3, LENGTH, seed=2).requires_grad_()
    split = [own(heads, len(ranks), rank) for rank in range(len(ranks))]
    expected = [part.unflatten(1, (HEADS, 3)).permute(0, 3, 1, 2) for part in split]
    check(ranks, "heads_round_trip", expected, [heads], 600)


def test_heads_come_with_the_whole_sequence_in_order(ranks: list[dict[str, Any]]):
    size = len(ranks)
    heads = random(BATCH, HEADS * 3, LENGTH, seed=2).requires_grad_()
    expected = list(heads.unflatten(1, (HEADS, 3)).permute(0, 3, 1, 2).chunk(size, dim=2))
    check(ranks, "gather_heads", expected, [heads], 500)


def test_the_state_of_a_recurrence_enters_every_run(ranks: list[dict[str, Any]]):
    size = len(ranks)
    states = random(BATCH, CHANNELS * STATES, 2 * size, seed=3).requires_grad_()
    decay = random(CHANNELS, STATES, seed=4).sigmoid().requires_grad_()
    runs = states.unflatten(1, (CHANNELS, STATES)).unbind(-1)
    entering = [torch.zeros_like(runs[0])]
    for state in runs[:-1]:
        entering.append(decay * entering[-1] + state)
    expected = [torch.cat([entering[rank], entering[2 * size - 1 - rank]]) for rank in range(size)]
    check(ranks, "carry_state", expected, [states, decay], 700)
    sent = state_bytes(batch=BATCH, channels=CHANNELS, states=STATES, size=size, element_size=BYTES)
    assert all(results["methods"]["carry_state"].sent_bytes == sent for results in ranks)


@pytest.mark.parametrize("length", [256, 64])
def test_a_network_on_several_processes_equals_one_on_one(ranks: list[dict[str, Any]], length: int):
    model = network()
    ids, weights = ids_and_weights(length)
    logits = model(ids)
    (logits * weights).sum().backward()
    outcomes = [results["network"][length] for results in ranks]
    assert_close(zigzag_merge([share for share, _ in outcomes], axis=1), logits.detach(), relative=1e-11)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert_close(torch.stack([grads[name] for _, grads in outcomes]).sum(0), parameter.grad, relative=1e-9)


def test_what_cannot_be_dealt_out_is_refused_before_anything_is_sent(ranks: list[dict[str, Any]]):
    size = len(ranks)
    for results in ranks:
        halo, channels, sequence = results["refusals"]
        assert halo == "a halo of 9 samples does not fit runs of 8; accepted is at most that"
        assert channels == f"3 channels or heads cannot be dealt out to {size} ranks evenly"
        assert sequence == f"a sequence of {10 * size + 1} cannot be split into {2 * size} equal runs"


def test_one_rank_holds_the_sequence_whole_and_sends_nothing():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        exchange = ContextExchange(dist.group.WORLD)  # type: ignore[arg-type]
        assert isinstance(exchange, SequenceExchange)
        assert (exchange.size, exchange.rank, exchange.segments) == (1, 0, 1)
        model, ids = network(), ids_and_weights(32)[0]
        expected = model(ids)
        use_exchange(model, exchange)
        assert torch.equal(model(ids), expected)
        assert exchange.traffic.sent_bytes == 0
        local, x = LocalExchange(), random(2, 4, 8, seed=0)
        for name in ("to_channels", "to_sequence"):
            assert torch.equal(getattr(exchange, name)(x), getattr(local, name)(x))
        assert torch.equal(exchange.left_halo(x, 3), local.left_halo(x, 3))
        assert torch.equal(exchange.carry_state(x[0], x), local.carry_state(x[0], x))
    finally:
        dist.destroy_process_group()


def test_every_part_of_a_network_gets_the_exchange():
    model = network()
    exchange = LocalExchange()
    use_exchange(nn.Sequential(model, nn.Linear(2, 2)), exchange)
    holders = [module for module in model.modules() if hasattr(module, "exchange")]
    assert any(isinstance(module, StripedHyena2) for module in holders)
    assert len(holders) == 5
    assert all(module.exchange is exchange for module in holders)
