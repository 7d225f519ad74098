"""Rows and pages: a request gets all it will need or waits, and memory is that of the tokens in it."""

import pytest
import torch

from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import ByteTokenizer, Engine, GenerateJob, GenerationOptions, Ticket, Tokens
from subquad.inference.continuous_batch import ContinuousBatch
from subquad.inference.network import PAGE_TOKENS
from subquad.inference.state_pool import StatePool, pages_for
from subquad.modules import StripedHyena2

ROW_BYTES = 2 * 2 * TINY["hidden_size"] * 4  # keys and values of two attention layers in float32


@pytest.mark.parametrize("tokens", [1024, 8192, 65536])
def test_keys_and_values_take_at_most_a_tenth_more_than_the_tokens_need(tokens: int) -> None:
    network = StripedHyena2(**TINY, device="meta")
    pool = StatePool(network, 8, 1 << 20, page_count=pages_for(tokens))
    assert pool.state.key_value_nbytes <= 1.1 * tokens * ROW_BYTES


def test_rows_are_admitted_while_there_are_pages(network: StripedHyena2) -> None:
    pool = StatePool(network, 4, 1024, page_count=5)
    first, second = pool.acquire(1, 3 * PAGE_TOKENS), pool.acquire(1, 3 * PAGE_TOKENS)
    assert first is not None
    assert second is None
    assert pool.acquire(2, PAGE_TOKENS) is not None
    assert pool.free_pages == 0
    pool.release(first)
    assert pool.free_pages == 3
    assert pool.acquire(1, 2 * PAGE_TOKENS + 1) is not None


def test_no_two_rows_hold_a_page_and_runs_are_preferred(network: StripedHyena2) -> None:
    pool = StatePool(network, 4, 1024, page_count=8)
    rows = [pool.acquire(1, 2 * PAGE_TOKENS) for _ in range(4)]
    assert sorted(page for held in pool.state.pages.held for page in held) == list(range(8))
    for row in (rows[0], rows[2], rows[3]):
        assert row is not None
        pool.release(row)
    again = pool.acquire(1, 3 * PAGE_TOKENS)
    assert again is not None
    assert pool.state.pages.held[again[0]] == [4, 5, 6]


def run(batch: ContinuousBatch, jobs: list[GenerateJob]) -> list[tuple[list[int], list[float]]]:
    """Runs jobs to their ends and returns ids and log-probabilities."""
    tickets = [Ticket(1, buffer_capacity=100) for _ in jobs]
    for ticket, job in zip(tickets, jobs, strict=True):
        batch.submit(ticket, job)
    while not batch.idle:
        batch.step()
    events = [[e for e in ticket.take() if isinstance(e, Tokens)] for ticket in tickets]
    return [([i for e in each for i in e.ids], [p for e in each for p in e.logprobs or []]) for each in events]


def test_scattered_pages_and_waiting_for_them_change_no_bit() -> None:
    network = tiny_network()
    options = GenerationOptions(max_new_tokens=30, return_logprobs=True)
    jobs = [GenerateJob([65 + n % 3, 71] * length, options) for n, length in enumerate((130, 5, 260, 10, 120, 3))]

    def batch(page_count: int | None) -> ContinuousBatch:
        return ContinuousBatch(
            network,
            ByteTokenizer(),
            slots=3,
            max_sequence_tokens=1024,
            prefill_chunk=64,
            page_count=page_count,
            poison_freed=True,
        )

    roomy, tight = batch(None), batch(4)
    pages = tight.pool.state.pages
    taken = tight.pool.acquire(1, PAGE_TOKENS)
    other = tight.pool.acquire(1, PAGE_TOKENS)
    assert taken is not None
    assert other is not None
    tight.pool.release(taken)
    tight.pool._free_pages.reverse()  # pages are handed out in an order that makes no runs
    expected = run(roomy, jobs[:2] + jobs[4:])
    assert run(tight, jobs[:2] + jobs[4:]) == expected
    assert pages.size == PAGE_TOKENS


def test_a_batch_is_kept_from_call_to_call_and_grows_when_it_must(network: StripedHyena2) -> None:
    engine = Engine(network, ByteTokenizer(), max_running=2, prefill_chunk=64, max_sequence_tokens=2048)
    short, long = "ACGT" * 5, "ACGT" * 100
    options = GenerationOptions(max_new_tokens=5, return_logprobs=True)
    first = engine.generate([short], options)
    kept = engine._idle_batch
    assert engine.generate([short], options) == first
    assert engine._idle_batch is kept
    engine.generate([long], options)
    assert engine._idle_batch is not kept
    assert engine.generate([short], options) == first
    stream = engine.stream(short, options)
    next(stream)
    assert engine.generate([short], options) == first  # while a stream holds a batch of its own
    stream.close()
    engine.free_states()
    assert engine.generate([short], options) == first


def test_a_network_whose_weights_moved_gets_a_new_batch() -> None:
    network = tiny_network()
    engine = Engine(network, ByteTokenizer(), max_running=1)
    engine.generate(["ACGT"])
    kept = engine._idle_batch
    network.norm.scale.data = network.norm.scale.data.clone()
    engine.generate(["ACGT"])
    assert engine._idle_batch is not kept


def test_freed_pages_are_full_of_nan() -> None:
    pool = StatePool(tiny_network(), 2, 600, poison_freed=True)
    layer = next(layer for layer in pool.state.layers if hasattr(layer, "pages"))
    rows = pool.acquire(1, 300)
    assert rows is not None
    keys, _ = layer.read(rows[0], 300)
    assert not torch.isnan(keys).any()
    held = list(pool.state.pages.held[rows[0]])
    pool.release(rows)
    assert torch.isnan(layer.keys[held[0] * PAGE_TOKENS : (held[0] + 1) * PAGE_TOKENS]).all()
