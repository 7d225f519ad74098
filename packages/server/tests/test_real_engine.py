"""The service over the real engine and a tiny random StripedHyena 2: what holds for tokens and scores."""

import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from packages.server.tests.running_server import RunningServer, wait_until
from packages.server.tests.tiny_engine import tiny_engine, tiny_scheduler
from subquad.inference.continuous_batch import ContinuousBatch
from subquad.server import InternalError, InvalidRequest, Overloaded, ServingLimits, Variant


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


@pytest.fixture(scope="module")
def server(engine):
    limits = ServingLimits(max_running_requests=4, max_queued_requests=200)
    with RunningServer(tiny_scheduler(engine, max_running=4, max_queued=200), engine, limits=limits) as running:
        yield running


def dna(length, seed):
    return "".join(random.Random(seed).choices("ACGT", k=length))


def log_probabilities(engine, ids):
    """log p(ids[t] | ids[:t]) for t >= 1, from one full forward pass in float64."""
    logits = engine.forward(torch.tensor([ids])).double()[0, :-1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


@pytest.mark.parametrize("prompt", ["A", "ACGTA", dna(130, 1)])
def test_greedy_tokens_are_the_most_likely_ones_of_the_full_forward_pass(engine, client, prompt):
    (sample,) = client.generate(prompt, max_new_tokens=24, ignore_end_of_document=True, return_logprobs=True).result()
    ids = [*prompt.encode(), *sample.ids]
    best = engine.forward(torch.tensor([ids]))[0, len(prompt) - 1 : -1].argmax(-1).tolist()
    assert list(sample.ids) == best
    expected = log_probabilities(engine, ids)[len(prompt) - 1 :]
    assert sample.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_seed_repeats_a_sample_and_an_echoed_seed_replays_it(client):
    arguments = {"max_new_tokens": 30, "temperature": 1.0, "ignore_end_of_document": True}
    first = client.generate("ACGT", seed=5, **arguments).result()
    assert client.generate("ACGT", seed=5, **arguments).result() == first
    drawn = client.generate("ACGT", **arguments).result()
    assert client.generate("ACGT", seed=drawn[0].seed, **arguments).result() == drawn
    assert drawn[0].ids != first[0].ids


def test_each_of_several_samples_is_what_a_run_with_its_index_draws(client):
    arguments = {"max_new_tokens": 20, "temperature": 1.0, "seed": 3, "ignore_end_of_document": True}
    four = client.generate("ACGTAC", num_samples=4, **arguments).result()
    two = client.generate("ACGTAC", num_samples=2, **arguments).result()
    assert [sample.ids for sample in two] == [sample.ids for sample in four[:2]]
    assert len({sample.ids for sample in four}) == 4


def test_samples_of_one_prompt_share_its_prefill(server, client):
    before = server.scheduler.stats().prefills
    client.generate(dna(50, 2), max_new_tokens=2, num_samples=4).result()
    assert server.scheduler.stats().prefills == before + 1


@pytest.mark.parametrize("tokens_per_message", [1, 3, 16])
def test_a_stop_sequence_ends_the_text_wherever_messages_end(client, tokens_per_message):
    free = client.generate("ACGT", max_new_tokens=60, ignore_end_of_document=True, alphabet="ascii").result()[0]
    place = next(
        i
        for i in range(5, 58)
        if all(32 <= t < 127 for t in free.ids[i : i + 2]) and free.text.find(free.text[i : i + 2]) == i
    )
    stop = free.text[place : place + 2]
    (sample,) = client.generate(
        "ACGT",
        max_new_tokens=60,
        ignore_end_of_document=True,
        stop=[stop],
        alphabet="ascii",
        tokens_per_message=tokens_per_message,
    ).result()
    assert (sample.finish_reason, sample.stop_sequence) == ("stop_sequence", stop)
    assert sample.ids == free.ids[:place]


def test_scores_are_the_sums_of_the_full_forward_pass(engine, client):
    sequences = ["AC", "ACGTN", dna(70, 3), dna(131, 4)]
    for score, sequence in zip(client.score(sequences, return_logprobs=True), sequences, strict=True):
        expected = log_probabilities(engine, list(sequence.encode()))
        assert score.scored_tokens == len(sequence) - 1
        assert score.log_likelihood == pytest.approx(sum(expected), abs=1e-3)
        assert score.logprobs == pytest.approx(expected, abs=1e-4)
    for score, sequence in zip(client.score(sequences, prepend_eod=True), sequences, strict=True):
        assert score.scored_tokens == len(sequence)
        assert score.log_likelihood == pytest.approx(sum(log_probabilities(engine, [0, *sequence.encode()])), abs=1e-3)


@pytest.mark.parametrize("prepend_eod", [False, True])
def test_scoring_a_list_equals_scoring_one_by_one_in_any_order_bitwise(client, prepend_eod):
    sequences = [dna(length, length) for length in (2, 3, 7, 64, 65, 129, 300)]
    together = client.score(sequences, prepend_eod=prepend_eod)
    assert together == [client.score([sequence], prepend_eod=prepend_eod)[0] for sequence in sequences]
    order = random.Random(0).sample(range(len(sequences)), len(sequences))
    shuffled = client.score([sequences[i] for i in order], prepend_eod=prepend_eod)
    assert shuffled == [together[i] for i in order]


def test_both_strands_score_a_sequence_like_its_reverse_complement(client):
    sequence = dna(90, 6) + "N"
    opposite = sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    both = client.score([sequence], strand="both")[0]
    assert both.log_likelihood == client.score([opposite], strand="both")[0].log_likelihood
    halves = client.score([sequence, opposite])
    mean = (halves[0].log_likelihood + halves[1].log_likelihood) / 2
    assert both.log_likelihood == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("strand", ["forward", "both"])
def test_the_change_of_a_variant_is_the_difference_of_two_scores(client, strand):
    window = dna(120, 7)
    changes = [
        Variant(60, window[60], "A" if window[60] != "A" else "C"),
        Variant(10, window[10:14], ""),
        Variant(120, "", "GATTACA"),
    ]
    windows = [window[: v.offset] + v.alternate + window[v.offset + len(v.reference) :] for v in changes]
    reference, *alternates = (score.log_likelihood for score in client.score([window, *windows], strand=strand))
    scored = list(client.score_variants(window, changes, strand=strand))
    assert [score.delta_log_likelihood for score in scored] == [alternate - reference for alternate in alternates]


def test_a_request_gives_the_same_alone_and_among_any_others(client):
    arguments = {"max_new_tokens": 16, "return_logprobs": True, "ignore_end_of_document": True}
    needle = dna(37, 8)
    greedy = client.generate(needle, **arguments).result()
    sampled = client.generate(needle, temperature=0.8, top_p=0.9, seed=9, **arguments).result()
    score = client.score([needle])
    draw = random.Random(4)
    with ThreadPoolExecutor(8) as pool:
        for trial in range(20):
            fillers = [
                pool.submit(client.generate(dna(draw.randint(1, 90), i), max_new_tokens=draw.randint(1, 12)).result)
                for i in range(draw.randint(1, 6))
            ]
            assert client.generate(needle, **arguments).result() == greedy, trial
            assert client.generate(needle, temperature=0.8, top_p=0.9, seed=9, **arguments).result() == sampled, trial
            assert client.score([needle]) == score, trial
            for filler in fillers:
                filler.result()


def test_a_request_starts_while_another_one_runs(client):
    slow = client.generate("ACGT", max_new_tokens=900, ignore_end_of_document=True, tokens_per_message=1)
    next(slow)
    (quick,) = client.generate("AC", max_new_tokens=3, ignore_end_of_document=True).result()
    assert len(quick.ids) == 3
    seen = next(slow)
    assert seen.first_index < 800
    slow.close()


def test_cancelled_requests_give_their_slots_back(server, client):
    for _ in range(3):
        streams = [client.generate("ACGT", max_new_tokens=800, ignore_end_of_document=True)]
        next(streams[0])
        streams += [client.generate(dna(200, i), max_new_tokens=800, ignore_end_of_document=True) for i in range(12)]
        for stream in streams:
            stream.close()
    wait_until(lambda: server.scheduler.stats().slots_free == 4)
    stats = server.scheduler.stats()
    assert (stats.running, stats.queued) == (0, 0)


def test_the_end_of_the_context_is_refused_beforehand_with_both_numbers(client):
    assert client.get_model().limits.max_sequence_tokens == 1024
    with pytest.raises(InvalidRequest, match="is 25 after a prompt of 1000 tokens; accepted: at most 1024"):
        client.generate(dna(1000, 0), max_new_tokens=25).result()
    assert len(client.generate(dna(1000, 0), max_new_tokens=24, ignore_end_of_document=True).result()[0].ids) == 24


def test_samples_beyond_the_slots_are_refused_by_their_field(client):
    assert client.get_model().limits.max_samples_per_request == 4
    with pytest.raises(InvalidRequest, match="num_samples: is 5; accepted: 1 to 4"):
        client.generate("ACGT", num_samples=5).result()


def test_queued_tokens_are_bounded_like_queued_requests(engine):
    scheduler = tiny_scheduler(engine, max_running=1, max_queued_tokens=300)
    with RunningServer(scheduler, engine) as server, server.client() as client:
        running = client.generate("ACGT", max_new_tokens=900, ignore_end_of_document=True, tokens_per_message=1)
        next(running)
        waiting = client.generate(dna(250, 0), max_new_tokens=1)
        wait_until(lambda: server.scheduler.stats().queued == 1)
        with pytest.raises(Overloaded) as caught:
            client.score([dna(60, 0)])
        assert caught.value.quota == "queued tokens"
        assert caught.value.retry_delay
        waiting.close()


def test_calls_are_taken_as_long_as_slots_are_free_however_busy_the_engine_is(engine, monkeypatch):
    going_on, step = threading.Event(), ContinuousBatch.step
    going_on.set()
    monkeypatch.setattr(ContinuousBatch, "step", lambda batch: going_on.wait(30) and step(batch))
    scheduler = tiny_scheduler(engine, max_running=4, max_queued=1)
    with RunningServer(scheduler, engine) as server, server.client() as client, ThreadPoolExecutor(5) as callers:
        going_on.clear()
        calls = [callers.submit(client.score, [dna(20, seed)]) for seed in range(5)]  # four have a slot, one waits
        try:
            wait_until(lambda: server.scheduler.stats().queued == 5)
            with pytest.raises(Overloaded, match="2 requests would wait, at most 1 may"):
                client.score([dna(20, 5)])
        finally:
            going_on.set()
        assert all(call.result() for call in calls)


def test_the_model_is_described_as_it_is(engine, client):
    model = client.get_model()
    assert (model.architecture, model.vocab_size, model.hidden_size) == ("StripedHyena2", 512, 64)
    assert model.layers == tuple(engine.layer_names)
    assert model.compute_type == "float32"


@pytest.mark.parametrize(("choice", "said"), [(None, "auto"), (True, "on"), (False, "off")])
def test_the_model_says_which_fused_operators_were_asked_for(server, engine, client, choice, said):
    scores = client.score(["ACGTTGCA"])
    engine.model.use_subquadratic_ops = choice
    try:
        assert client.get_model().subquadratic_ops == said
        assert client.score(["ACGTTGCA"])[0].log_likelihood == pytest.approx(scores[0].log_likelihood, rel=1e-6)
    finally:
        engine.model.use_subquadratic_ops = None


def test_weights_that_give_no_finite_logits_end_the_request_and_not_the_server():
    engine = tiny_engine()
    with RunningServer(tiny_scheduler(engine), engine) as server, server.client() as client:
        weight = next(engine.model.parameters())
        before = weight.detach().clone()
        with torch.no_grad():
            weight[ord("T")] = math.nan
        for call in (client.generate("ACGT", max_new_tokens=4).result, lambda: client.score(["ACGT"])):
            with pytest.raises(InternalError, match="not finite"):
                call()
        with torch.no_grad():
            weight.copy_(before)
        assert client.is_serving()
        assert client.score(["ACCA"])
