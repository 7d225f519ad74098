"""Random schedules of the continuous batch: in each of them every request gives what the network gives for it alone.

A schedule is drawn from a seed, which a failure names: sizes of the batch, jobs with lengths at the edges of chunks and
pages, stop texts taken from what is generated, cancels, slow readers, and blocks of the network that raise.
"""

import dataclasses
import random
from functools import partial

import pytest
import torch

from packages.inference.tests.conftest import tiny_network
from subquad.inference import (
    ByteTokenizer,
    Embedded,
    EmbedJob,
    Failed,
    Finished,
    GenerateJob,
    GenerationOptions,
    Scored,
    ScoreJob,
    Ticket,
    Tokens,
    state_pool,
)
from subquad.inference.continuous_batch import ContinuousBatch
from subquad.inference.decode_program import DecodeProgram
from subquad.inference.errors import RequestCancelled, StepFailed
from subquad.inference.sampling import sample, seed_words, token_logprobs, uniforms
from subquad.modules import StripedHyena2
from subquad.modules.mixers import paged_key_values

LONGEST, PAGE = 80, 8
LAYERS = (["blocks.1"], ["blocks.3", "blocks.0.mlp.l3"], ["blocks.-1"])


class Faults:
    """Lets the blocks of a network raise by chance, before or behind what they do."""

    def __init__(self, network: StripedHyena2) -> None:
        self.chance, self.draw = 0.0, random.Random()
        for block in network.blocks:
            block.step, block.forward = self._around(block.step), self._around(block.forward)

    def _around(self, call):
        def called(*arguments, **keywords):
            self._perhaps_raise()
            result = call(*arguments, **keywords)
            self._perhaps_raise()
            return result

        return called

    def _perhaps_raise(self) -> None:
        if self.draw.random() < self.chance:
            raise RuntimeError("by chance")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(state_pool, "PAGE_TOKENS", PAGE)
    monkeypatch.setattr(paged_key_values, "PAGE_SIZE", PAGE)


def drawn_length(draw: random.Random, chunk: int) -> int:
    if draw.random() < 0.4:  # read in one step, into the row of who has just ended
        return draw.randint(1, min(3, chunk))
    edges = [1, 2, chunk - 1, chunk, chunk + 1, 2 * chunk, PAGE * draw.randint(1, 6) + draw.choice([-1, 0, 1])]
    return min(max(1, draw.choice([*edges, draw.randint(1, 30)])), LONGEST - 20)


def drawn_job(draw: random.Random, chunk: int, slots: int):
    def sequence(least: int) -> list[int]:
        return [draw.choice(b"ACGT") for _ in range(max(least, drawn_length(draw, chunk)))]

    kind = draw.random()
    if kind < 0.75:
        options = GenerationOptions(
            max_new_tokens=draw.choice([1, 2, 5, draw.randint(1, 15), 300 if draw.random() < 0.1 else 3]),
            temperature=draw.choice([0.0, 0.7, 2.0]),
            top_k=draw.choice([0, 1, 4, 50]),
            top_p=draw.choice([1.0, 0.9, 0.3]),
            seed=draw.getrandbits(64),
            return_logprobs=draw.random() < 0.5,
        )
        samples = draw.choice([1, 1, 1, slots])
        return GenerateJob(sequence(1), options, num_samples=samples, ignore_end_of_document=draw.random() < 0.3)
    sequences = [sequence(2) for _ in range(draw.randint(1, 3))]
    if kind > 0.9:
        return EmbedJob(sequences, draw.choice(LAYERS), draw.choice(["mean", "last", "max", "none"]))
    prepend, strand = draw.random() < 0.5, draw.choice(["forward", "both"])
    values = (prepend or strand == "forward") and draw.random() < 0.5
    return ScoreJob(sequences, prepend_eod=prepend, strand=strand, return_logprobs=values)


def with_stop(draw: random.Random, job, result):
    """Returns a generation that ends at a text out of what it generates without."""
    ids = result[0].get(("ids", 0), [])
    if not isinstance(job, GenerateJob) or len(ids) < 3:
        return job
    start = draw.randrange(min(4, len(ids) - 1))
    piece = ids[start : start + draw.randint(1, 3)]
    if not all(0 < i < 128 for i in piece):
        return job
    stops = ("".join(map(chr, piece)), chr(piece[0]) + "never there")
    return dataclasses.replace(job, options=dataclasses.replace(job.options, stop=stops))


def collected(events) -> tuple[dict, type | None]:
    """Returns what a job gave, by sample or sequence, and its error."""
    found, error = {}, None
    for event in events:
        match event:
            case Tokens():
                ids = found.setdefault(("ids", event.sample_index), [])
                assert event.first_index == len(ids)
                ids += event.ids
                found.setdefault(("logprobs", event.sample_index), []).extend(event.logprobs or [])
            case Finished():
                end = (event.reason, event.stop_sequence, event.generated_tokens)
                found["end", event.sample_index] = end
            case Scored():
                found["score", event.index] = (event.log_likelihood, event.scored_tokens, event.logprobs)
            case Embedded():
                found["vectors", event.index] = {name: values.tolist() for name, values in event.values.items()}
            case Failed():
                error = type(event.error)
            case _:
                pass
    return found, error


def is_beginning(found: dict, whole: dict) -> bool:
    """Says whether a job that did not end gave nothing but what it gives alone."""
    return all(
        whole[key][: len(value)] == value if key[0] in ("ids", "logprobs") else whole[key] == value
        for key, value in found.items()
    )


@torch.inference_mode()
def prompt_alone(network, prompt: list[int], sizes: dict, state) -> torch.Tensor:
    """Reads a prompt into the first row of a state and returns the logits behind it, without any code of the batch."""
    rows, chunk = sizes["prefill_rows"], sizes["prefill_chunk"]
    if rows > 1 and len(prompt) <= chunk:
        side_by_side = network.init_state(rows, max_length=256)
        ids = torch.zeros(rows, 64, dtype=torch.int64)
        ids[0, 64 - len(prompt) :] = torch.tensor(prompt)
        hidden = network.encode_short(ids, side_by_side, [len(prompt), *[1] * (rows - 1)])
        state.take_rows(side_by_side, [0], [len(prompt)])
    else:
        for start in range(0, len(prompt), chunk):
            ids = torch.tensor([prompt[start : start + chunk]])
            hidden = network.encode_last(ids, state.row(0), starts=[start])
    return network.unembed(hidden[:, None])[:1, 0]


@torch.inference_mode()
def sample_alone(network, job: GenerateJob, index: int, sizes: dict) -> dict:
    """Returns what one sample of a generation is, by one row that decodes alone and a search in its whole text."""
    slots, options, prompt = sizes["slots"], job.options, list(job.prompt_ids)
    state = network.init_state(slots, max_length=LONGEST)
    active = torch.arange(slots) == 0
    logits = prompt_alone(network, prompt, sizes, state)
    numbers = (
        torch.tensor([options.temperature]).double(),
        torch.tensor([options.top_k]),
        torch.tensor([options.top_p]),
    )
    ids, logprobs, most = [], [], min(options.max_new_tokens, LONGEST - len(prompt))
    reason, ended_by = "max_new_tokens" if options.max_new_tokens <= most else "context_length", None
    while len(ids) < most:
        seeds, place = torch.tensor([seed_words(options.seed)]), torch.tensor([len(prompt) + len(ids)])
        uniform = uniforms(seeds, torch.tensor([index]), place)
        ids.append(int(sample(logits, *(n.double() if n.is_floating_point() else n for n in numbers), uniform)))
        logprobs.append(float(token_logprobs(logits, torch.tensor(ids[-1:]))))
        text = "".join(map(chr, ids))
        ended_by = max((stop for stop in options.stop if text.endswith(stop)), key=len, default=None)
        if ended_by or (ids[-1] == 0 and not job.ignore_end_of_document):
            reason = "stop_sequence" if ended_by else "end_of_document"
            break
        logits = network.step(torch.tensor([ids[-1]] * slots), state, active=active)[:1]
    kept = len(ids) - (len(ended_by) if ended_by else int(reason == "end_of_document"))
    found = {("end", index): (reason, ended_by, len(ids))}
    if kept:
        found["ids", index] = ids[:kept]
        found["logprobs", index] = logprobs[:kept] if options.return_logprobs else []
    return found


def ticket_of(job, capacity: int) -> Ticket:
    return Ticket(job.num_samples if isinstance(job, GenerateJob) else len(job.sequences), buffer_capacity=capacity)


def pages_of(job) -> int:
    if isinstance(job, GenerateJob):
        tokens = min(len(job.prompt_ids) + job.options.max_new_tokens, LONGEST)
        return job.num_samples * state_pool.pages_for(tokens)
    return state_pool.pages_for(max(map(len, job.sequences)) + 1)


def run_schedule(seed: int, network, faults: Faults, monkeypatch, *, ahead: bool) -> list[type | None]:
    """Runs one schedule, compares every request with itself alone, and returns how each ended."""
    draw, faults.chance = random.Random(seed), 0.0
    sizes = {"slots": draw.randint(1, 4), "prefill_chunk": draw.choice([1, 2, 5, 7, 8, 16, 33])}
    slots, chunk = sizes["slots"], sizes["prefill_chunk"]
    sizes |= {"prefill_rows": draw.choice([1, 1, 2, 4]), "max_sequence_tokens": LONGEST, "poison_freed": True}

    def alone(job):
        if isinstance(job, GenerateJob):
            samples = (sample_alone(network, job, index, sizes) for index in range(job.num_samples))
            return {key: value for sample_of in samples for key, value in sample_of.items()}, None
        batch, ticket = ContinuousBatch(network, ByteTokenizer(), **sizes), ticket_of(job, 10**6)
        batch.submit(ticket, job)
        while not batch.idle:
            batch.step()
        return collected(ticket.take())

    waiting = []
    for _ in range(draw.randint(5, 9)):
        job = drawn_job(draw, chunk, slots)
        result = alone(job)
        stopped = with_stop(draw, job, result) if draw.random() < 0.5 else job
        waiting.append((stopped, result if stopped is job else alone(stopped)))
    most = max(pages_of(job) for job, _ in waiting)
    batch = ContinuousBatch(network, ByteTokenizer(), page_count=draw.randint(most, 2 * most), **sizes)
    monkeypatch.setattr(DecodeProgram, "overlaps", property(lambda _: ahead))
    faults.draw, faults.chance = random.Random(seed), draw.choice([0.0, 0.0, 0.001, 0.005])
    if faults.chance:  # a step that was prepared runs no blocks that could raise
        monkeypatch.setattr(network, "step", partial(StripedHyena2.step, network))
    running = []
    for _ in range(20_000):
        while waiting and draw.random() < 0.8:
            job, result = waiting.pop()
            running.append((ticket_of(job, draw.choice([1, 2, 64])), job, result, []))
            batch.submit(running[-1][0], job)
        if running and draw.random() < 0.02:
            draw.choice(running)[0].cancel()
        batch.step(decode=draw.random() < 0.9)
        held = [slot for request in batch._running for slot in request.slots]
        pages = [page for slot in held for page in batch.pool._pages[slot]]
        assert sorted(held + batch.pool._free) == list(range(slots))
        assert sorted(pages + batch.pool._free_pages) == list(range(batch.pool.page_count))
        for ticket, _, _, events in running:
            if draw.random() < 0.5:
                events += ticket.take()
        if batch.idle and not waiting:
            break
    monkeypatch.undo()
    endings = []
    for ticket, job, (whole, _), events in running:
        found, error = collected(events + ticket.take())
        assert ticket.done, (seed, job)
        assert found == whole if error is None else is_beginning(found, whole), (seed, job)
        assert (
            error is None or (error is RequestCancelled and ticket.cancelled) or (error is StepFailed and faults.chance)
        )
        endings.append(error)
    return endings


@pytest.fixture(scope="module")
def network():
    return tiny_network(pattern="SDH*", hidden_size=32, num_heads=2, inner_size=32, filter_groups=4)


@pytest.fixture(scope="module")
def faults(network):
    return Faults(network)


@pytest.mark.parametrize("ahead", [False, True], ids=["in_step", "ahead"])
@pytest.mark.parametrize("seed", [5, 48])  # of rows taken over beside a step under way, of steps that fail
def test_each_request_of_a_random_schedule_gives_what_it_gives_alone(seed, network, faults, ahead):
    with pytest.MonkeyPatch.context() as patches:
        run_schedule(seed, network, faults, patches, ahead=ahead)


@pytest.mark.slow
def test_each_request_of_many_random_schedules_gives_what_it_gives_alone(network, faults):
    endings = []
    for seed in range(100, 250):
        with pytest.MonkeyPatch.context() as patches:
            endings += run_schedule(seed, network, faults, patches, ahead=seed % 2 == 0)
    assert set(endings) == {None, RequestCancelled, StepFailed}
