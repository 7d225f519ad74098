"""Short prompts read side by side: the same bits alone and together, in fewer forwards, and nobody else's fault."""

import pytest
import torch

from packages.inference.tests.conftest import tiny_network
from subquad.inference import ByteTokenizer, Engine, GenerationOptions, Ticket
from subquad.inference.continuous_batch import ContinuousBatch
from subquad.inference.errors import InvalidOption, StepFailed
from subquad.inference.jobs import Failed, Finished, GenerateJob, Tokens
from subquad.inference.short_prompts import WIDTHS
from tools.testing.oracle import assert_close

GREEDY = GenerationOptions(max_new_tokens=6, return_logprobs=True)
SAMPLED = GenerationOptions(max_new_tokens=6, temperature=1.1, top_k=40, seed=17, return_logprobs=True)
PROMPTS = ["A", "ACGTACGTTTACG" * 3, "G" * 64, "GATTACA" * 15, "C", "ACG" * 20, "TTGACA" * 30, "T" * 300]


def make_engine(network, **options) -> Engine:
    return Engine(network, ByteTokenizer(), max_running=5, prefill_chunk=512, max_sequence_tokens=512, **options)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_prompts_give_in_any_company_and_order_bitwise_what_each_gives_alone(network, options) -> None:
    engine = make_engine(network, prefill_rows=4)
    alone = [engine.generate([prompt], options)[0] for prompt in PROMPTS]
    assert engine.generate(PROMPTS, options) == alone
    assert engine.generate(PROMPTS[::-1], options) == alone[::-1]


def test_read_side_by_side_and_one_by_one_differ_by_rounding_only() -> None:
    network = tiny_network(dtype=torch.float64)
    together, single = (make_engine(network, prefill_rows=rows).generate(PROMPTS, GREEDY) for rows in (4, 1))
    for a, b in zip(together, single, strict=True):
        assert a.ids == b.ids
        assert_close(torch.tensor(a.logprobs).double(), torch.tensor(b.logprobs).double(), 1e-6)


def batch_of(network, prompts: list[str], rows: int, samples: int = 1) -> tuple[ContinuousBatch, list[Ticket]]:
    batch = ContinuousBatch(
        network,
        ByteTokenizer(),
        slots=12,
        max_sequence_tokens=400,
        prefill_chunk=256,
        prefill_rows=rows,
        poison_freed=True,
    )
    tickets = [Ticket(samples) for _ in prompts]
    for ticket, prompt in zip(tickets, prompts, strict=True):
        batch.submit(ticket, GenerateJob(list(prompt.encode()), GREEDY, num_samples=samples))
    return batch, tickets


def run(batch: ContinuousBatch, tickets: list[Ticket]) -> list[list]:
    events = [[] for _ in tickets]
    while not batch.idle:
        batch.step()
        for found, ticket in zip(events, tickets, strict=True):
            found += ticket.take()
    return events


def test_waiting_prompts_of_one_width_take_one_forward(network) -> None:
    batch, tickets = batch_of(network, ["ACGT" * n for n in range(1, 9)] + ["ACGT" * 20, "A" * 257], rows=8)
    events = run(batch, tickets)
    assert all(isinstance(found[-1], Finished) for found in events)
    assert batch.counters.prefills == 10
    assert batch.counters.prefill_chunks == 1 + 1 + 2  # eight of 64, one of 128, and 257 tokens in chunks


def test_samples_of_one_prompt_start_from_its_state(network) -> None:
    batch, tickets = batch_of(network, ["ACGT", "GATTACA"], rows=4, samples=3)
    for events in run(batch, tickets):
        ids = {index: [] for index in range(3)}
        for event in events:
            if isinstance(event, Tokens):
                ids[event.sample_index] += event.ids
        assert len(ids[0]) == 6
        assert ids[0] == ids[1] == ids[2]  # greedy


class Spoiled:
    """Makes a network raise, or return NaN, for the row of one prompt."""

    def __init__(self, network, token: int, effect: str) -> None:
        self._inner, self._token, self._effect = network.encode_short, token, effect
        network.encode_short = self

    def __call__(self, ids, state, lengths):
        hidden, hit = self._inner(ids, state, lengths), (ids == self._token).any(dim=1)
        if self._effect == "raise" and hit.any():
            raise RuntimeError("boom")
        return torch.where(hit[:, None], float("nan"), hidden)


@pytest.mark.parametrize("effect", ["raise", "nan"])
def test_one_bad_prompt_ends_alone(effect: str) -> None:
    network = tiny_network()
    expected = [events[:-1] for events in run(*batch_of(network, ["ACGT", "GATTACA"], rows=4))]
    Spoiled(network, ord("N"), effect)
    good, bad, other = run(*batch_of(network, ["ACGT", "ANA", "GATTACA"], rows=4))
    assert isinstance(bad[-1], Failed)
    assert isinstance(bad[-1].error, StepFailed) == (effect == "raise")
    tokens = [[event for event in events if isinstance(event, Tokens)] for events in (good, other)]
    assert tokens == [[event for event in events if isinstance(event, Tokens)] for events in expected]


def test_sizes_say_what_is_read_side_by_side(network) -> None:
    batch, _ = batch_of(network, [], rows=4)
    assert batch._short is not None
    assert [batch._short.width(n) for n in (1, 64, 65, 256, 257)] == [64, 64, 128, 256, None]
    assert WIDTHS[-1] == 256
    assert batch_of(network, [], rows=1)[0]._short is None
    with pytest.raises(InvalidOption, match="prefill_rows"):
        make_engine(network, prefill_rows=0)
