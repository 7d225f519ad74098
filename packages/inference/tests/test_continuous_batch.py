"""Tests of the core without threads: rows and requests stay accounted for whatever comes."""

import itertools
import random

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from packages.inference.tests.conftest import tiny_network
from subquad.inference import (
    ByteTokenizer,
    Engine,
    Failed,
    Finished,
    GenerateJob,
    GenerationOptions,
    Scored,
    ScoreJob,
    Started,
    Ticket,
    Tokens,
)
from subquad.inference.continuous_batch import ContinuousBatch
from subquad.inference.errors import InvalidSequence
from subquad.inference.state_pool import StatePool
from subquad.modules import StripedHyena2

SLOTS = 3


def small_network():
    torch.manual_seed(0)
    return StripedHyena2(pattern="S*", hidden_size=16, num_heads=2, inner_size=16, filter_groups=4).eval()


def small_batch(network, slots=SLOTS):
    return ContinuousBatch(
        network, ByteTokenizer(), slots=slots, max_sequence_tokens=64, prefill_chunk=4, poison_freed=True
    )


class BatchMachine(RuleBasedStateMachine):
    """Submits, steps, cancels and reads in any order."""

    network = small_network()

    def __init__(self):
        super().__init__()
        self.batch = small_batch(self.network)
        self.tickets = []
        self.events = {}

    def submit(self, endings, job, capacity=64):
        ticket = Ticket(endings, buffer_capacity=capacity)
        self.batch.submit(ticket, job)
        self.tickets.append(ticket)
        self.events[ticket.id] = []

    @rule(prompt=st.integers(1, 20), new=st.integers(1, 12), samples=st.integers(1, SLOTS), capacity=st.integers(1, 8))
    def generate(self, prompt, new, samples, capacity):
        options = GenerationOptions(max_new_tokens=new, temperature=1.0, seed=prompt)
        self.submit(samples, GenerateJob([65] * prompt, options, num_samples=samples), capacity)

    @rule(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=3), strand=st.sampled_from(["forward", "both"]))
    def score(self, lengths, strand):
        self.submit(len(lengths), ScoreJob([[65] * n for n in lengths], strand=strand))

    @rule(count=st.integers(1, 5))
    def step(self, count):
        for _ in range(count):
            self.batch.step()

    @rule(which=st.integers(0, 30))
    def cancel(self, which):
        if self.tickets:
            self.tickets[which % len(self.tickets)].cancel()

    @rule(which=st.integers(0, 30))
    def read(self, which):
        if self.tickets:
            ticket = self.tickets[which % len(self.tickets)]
            self.events[ticket.id] += ticket.take()

    @invariant()
    def every_row_is_free_or_held_by_one_request(self):
        held = [slot for request in self.batch._running for slot in request.slots]
        assert len(set(held)) == len(held)
        assert sorted([*held, *self.batch.pool._free]) == list(range(SLOTS))

    def teardown(self):
        for _ in range(5000):
            if self.batch.idle:
                break
            self.batch.step()
            for ticket in self.tickets:
                self.events[ticket.id] += ticket.take()
        assert self.batch.idle
        assert self.batch.pool.free == SLOTS
        for ticket in self.tickets:
            events = self.events[ticket.id] + ticket.take()
            assert ticket.done
            ends = [e for e in events if isinstance(e, Finished | Failed | Scored)]
            assert ends
            assert events[-1] is ends[-1]
            assert sum(isinstance(e, Started) for e in events) <= 1


BatchMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRowsAndRequestsStayAccountedFor = BatchMachine.TestCase


def test_a_decode_shape_that_followed_the_load_would_show(network):
    """The invariance tests can see what they are for: another number of rows changes the last bits."""
    prompts = [[random.Random(n).choice(b"ACGT") for _ in range(20)] for n in range(4)]
    options = GenerationOptions(max_new_tokens=20, return_logprobs=True)
    results = [
        Engine(network, ByteTokenizer(), max_running=n, prefill_chunk=16).generate(prompts, options) for n in (1, 4)
    ]
    assert [a.ids for a in results[0]] == [b.ids for b in results[1]]
    assert any(a.logprobs != b.logprobs for a, b in zip(*results, strict=True))


def test_state_that_is_not_poisoned_when_freed_gives_the_same_results(network):
    prompts = [[65, 67, 71]] * 3 + [[84] * 30] * 3
    options = GenerationOptions(max_new_tokens=10, return_logprobs=True)
    plain = Engine(network, ByteTokenizer(), max_running=2, prefill_chunk=16).generate(prompts, options)
    batch = ContinuousBatch(
        network, ByteTokenizer(), slots=2, max_sequence_tokens=40, prefill_chunk=16, poison_freed=True
    )
    tickets = [Ticket(1) for _ in prompts]
    for ticket, prompt in zip(tickets, prompts, strict=True):
        batch.submit(ticket, GenerateJob(prompt, options))
    while not batch.idle:
        batch.step()
    for ticket, expected in zip(tickets, plain, strict=True):
        events = [e for e in ticket.take() if isinstance(e, Tokens)]
        assert [i for e in events for i in e.ids] == expected.ids
        assert [p for e in events for p in e.logprobs or []] == expected.logprobs


def test_freed_rows_are_full_of_nan_and_acquired_ones_are_clean():
    pool = StatePool(small_network(), 2, 8, poison_freed=True)
    ring = next(t for t in pool.state.layers[0].tensors().values())
    assert torch.isnan(ring).all()
    rows = pool.acquire(1)
    assert rows is not None
    assert not torch.isnan(ring[rows[0]]).any()
    pool.release(rows)
    assert torch.isnan(ring).all()
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(rows)


def test_memory_of_a_long_score_is_that_of_one_chunk(fresh_network):
    seen = []
    encode = fresh_network.encode
    fresh_network.encode = lambda ids, state=None, **known: (
        seen.append(tuple(ids.shape)),
        encode(ids, state, **known),
    )[1]
    Engine(fresh_network, ByteTokenizer(), prefill_chunk=32).score(["ACGT" * 25])
    assert seen == [(1, 32), (1, 32), (1, 32), (1, 3)]


def test_the_test_network_uses_its_whole_input():
    network = tiny_network()
    ids = torch.tensor([list(b"ACGTTAGGGTTAGACCAG")])
    changed = ids.clone()
    changed[0, 0] = 84
    with torch.inference_mode():
        assert (network(ids)[0, -1] - network(changed)[0, -1]).abs().max() > 1e-3


def _prompts_read_per_step(network, lengths: list[int], *, busy: bool, **options) -> list[int]:
    """Submits prompts at once, behind a long generation where ``busy``; counts the prompts that each step reads."""
    batch = ContinuousBatch(
        network,
        ByteTokenizer(),
        slots=8,
        max_sequence_tokens=200,
        prefill_chunk=16,
        clock=itertools.count(0.0).__next__,
        **options,
    )
    if busy:
        batch.submit(Ticket(100), GenerateJob([65], GenerationOptions(max_new_tokens=100)))
        batch.step()
    for length in lengths:
        batch.submit(Ticket(100), GenerateJob([65] * length, GenerationOptions(max_new_tokens=50)))
    counts = []
    while sum(counts) < len(lengths):
        before = batch.counters.prefills
        batch.step()
        counts.append(batch.counters.prefills - before)
    return counts


def test_a_step_reads_as_many_short_prompts_as_make_a_chunk(network):
    assert _prompts_read_per_step(network, [5, 5, 5, 5, 5], busy=True) == [3, 2]
    assert _prompts_read_per_step(network, [16, 3, 20, 12], busy=True) == [1, 1, 0, 2]


def test_rows_that_decode_wait_no_longer_than_is_said(network):
    assert _prompts_read_per_step(network, [5, 5, 5], busy=True, longest_wait=1.0) == [1, 1, 1]
    assert _prompts_read_per_step(network, [5, 5, 5], busy=False, longest_wait=1.0) == [3]


def stepped(batch):
    """Takes more steps than a few short requests need."""
    for _ in range(50):
        batch.step()
    assert batch.idle
    assert batch.pool.free == SLOTS


def of_ticket(ticket, kind):
    return [event for event in ticket.take() if isinstance(event, kind)]


def test_a_request_that_cannot_begin_to_decode_ends_and_those_read_beside_it_go_on(monkeypatch):
    batch = ContinuousBatch(
        small_network(), ByteTokenizer(), slots=SLOTS, max_sequence_tokens=64, prefill_chunk=64, prefill_rows=SLOTS
    )
    tickets, place = [Ticket(1) for _ in range(SLOTS)], batch._rows.place

    def placed(slot, stream, first_id):
        if stream.ticket is tickets[1]:
            raise RuntimeError("boom")
        place(slot, stream, first_id)

    monkeypatch.setattr(batch._rows, "place", placed)
    for ticket in tickets:
        batch.submit(ticket, GenerateJob(list(b"ACGT"), GenerationOptions(max_new_tokens=3)))
    stepped(batch)
    assert [len(of_ticket(tickets[k], Finished)) for k in (0, 2)] == [1, 1]
    (failed,) = of_ticket(tickets[1], Failed)
    assert "RuntimeError: boom" in str(failed.error)


class DNAOnly(ByteTokenizer):
    def encode(self, text, *, field="text"):
        if set(text) - set("ACGT"):
            raise InvalidSequence(field, "is no DNA")
        return super().encode(text, field=field)


def test_a_stop_text_that_the_tokenizer_does_not_know_ends_its_own_request():
    batch = ContinuousBatch(small_network(), DNAOnly(), slots=SLOTS, max_sequence_tokens=64, prefill_chunk=4)
    tickets = [Ticket(1), Ticket(1)]
    for ticket, stop in zip(tickets, ("xyz", "ACGTACGT"), strict=True):
        batch.submit(ticket, GenerateJob(list(b"ACGT"), GenerationOptions(max_new_tokens=3, stop=(stop,))))
    stepped(batch)
    (failed,) = of_ticket(tickets[0], Failed)
    assert str(failed.error) == "stop[0] is no DNA"
    assert of_ticket(tickets[1], Finished)
