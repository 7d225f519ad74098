"""The promises of continuous batching: what other requests do never shows in a request's result."""

import random
import threading
import time

import pytest
import torch

from packages.inference.tests.conftest import tiny_network
from packages.inference.tests.reading import Reader, until
from subquad.inference import (
    ByteTokenizer,
    Engine,
    GenerateJob,
    GenerationOptions,
    Scheduler,
    SchedulerLimits,
    ScoreJob,
)
from subquad.inference.errors import (
    EngineStopped,
    InvalidOption,
    InvalidSequence,
    NonFiniteLogits,
    QueueFull,
    RequestCancelled,
    RequestTooLarge,
    SchedulerClosed,
    StepFailed,
)

NEEDLE = list(b"ACGTTAGGGTTAGACCAGATTACAGG")
LONG = GenerationOptions(max_new_tokens=400, temperature=1.0, seed=1)


def sampled(seed, count=12):
    return GenerationOptions(max_new_tokens=count, temperature=1.2, top_k=50, seed=seed, return_logprobs=True)


def long_job(prompt=NEEDLE):
    return GenerateJob(prompt, LONG, ignore_end_of_document=True)


def fillers(count, seed):
    chance = random.Random(seed)
    prompts = [[chance.choice(b"ACGT") for _ in range(chance.randint(1, 60))] for _ in range(count)]
    return [GenerateJob(p, sampled(chance.randrange(99), chance.randint(1, 30))) for p in prompts]


def alone(engine, job):
    result = engine.generate([job.prompt_ids], job.options)[0]
    return result.ids, result.logprobs


def test_a_request_gives_the_same_alone_and_among_others_in_any_slot_and_order(scheduler, engine):
    job = GenerateJob(NEEDLE, sampled(5))
    expected = alone(engine, job)
    for trial in range(6):
        jobs = [*fillers(trial, trial), job]
        random.Random(trial).shuffle(jobs)
        readers = [Reader(scheduler, j) for j in jobs]
        for reader in readers:
            reader.finish()
        needle = readers[jobs.index(job)]
        assert (needle.ids(), needle.logprobs()) == expected
        for reader, other in list(zip(readers, jobs, strict=True))[:2]:
            assert (reader.ids(), reader.logprobs()) == alone(engine, other)


def test_a_late_joiner_changes_nothing_for_those_that_run(scheduler, engine):
    first = GenerateJob(NEEDLE, sampled(6, 60))
    reader = Reader(scheduler, first, buffer_capacity=8)
    until(lambda: not reader.ticket.has_room(0))
    late = Reader(scheduler, GenerateJob(list(b"TTTT"), sampled(7)))
    reader.finish()
    late.finish()
    assert (reader.ids(), reader.logprobs()) == alone(engine, first)


def test_greedy_and_sampled_requests_do_not_meet(scheduler, engine):
    jobs = [
        GenerateJob(NEEDLE, GenerationOptions(max_new_tokens=20, return_logprobs=True)),
        GenerateJob(NEEDLE, sampled(3, 20)),
    ]
    readers = [Reader(scheduler, job) for job in jobs]
    for reader, job in zip(readers, jobs, strict=True):
        reader.finish()
        assert (reader.ids(), reader.logprobs()) == alone(engine, job)


def test_samples_share_one_prefill_and_each_draws_by_its_index(scheduler, engine):
    before = scheduler.stats().prefills
    job = GenerateJob(NEEDLE, sampled(9, 20), num_samples=4)
    reader = Reader(scheduler, job).finish()
    assert scheduler.stats().prefills == before + 1
    assert sorted(f.sample_index for f in reader.finished) == [0, 1, 2, 3]
    assert (reader.ids(0), reader.logprobs(0)) == alone(engine, GenerateJob(NEEDLE, sampled(9, 20)))
    assert len({tuple(reader.ids(i)) for i in range(4)}) == 4
    again = Reader(scheduler, job).finish()
    assert [again.ids(i) for i in range(4)] == [reader.ids(i) for i in range(4)]
    two = Reader(scheduler, GenerateJob(NEEDLE, sampled(9, 20), num_samples=2)).finish()
    assert [two.ids(i) for i in range(2)] == [reader.ids(i) for i in range(2)]


def test_rows_are_all_accounted_for_at_any_time_and_all_free_when_idle(scheduler):
    readers = [Reader(scheduler, job) for job in fillers(12, 3)]
    for reader in readers:
        stats = scheduler.stats()
        assert 0 <= stats.slots_free <= stats.slots_total
        reader.finish()
    until(lambda: scheduler.stats().slots_free == 4)
    assert (scheduler.stats().running, scheduler.stats().queued) == (0, 0)


def test_a_freed_row_leaks_nothing_into_the_next_request(scheduler, engine):
    for job in fillers(5, 4):
        reader = Reader(scheduler, job).finish()
        assert (reader.ids(), reader.logprobs()) == alone(engine, job)


@pytest.mark.parametrize("phase", ["queued", "reading", "decoding", "stalled"])
def test_a_cancelled_request_frees_its_rows_in_every_phase(engine, phase):
    limits = SchedulerLimits(max_running=1, prefill_chunk=1, max_sequence_tokens=512)
    with Scheduler(engine, limits, poison_freed=True) as scheduler:
        ahead = Reader(scheduler, long_job([65]), buffer_capacity=1) if phase == "queued" else None
        prompt = NEEDLE * 15 if phase == "reading" else NEEDLE
        reader = Reader(scheduler, long_job(prompt), buffer_capacity=4 if phase == "stalled" else 500)
        if phase == "reading":
            until(lambda: scheduler.stats().prefill_chunks > 3)
        elif phase in ("decoding", "stalled"):
            until(lambda: (reader.take() and reader.ids()) if phase == "decoding" else not reader.ticket.has_room(0))
        reader.ticket.cancel()
        reader.finish()
        assert isinstance(reader.error, RequestCancelled)
        assert not reader.finished
        if ahead is not None:
            ahead.ticket.cancel()
            ahead.finish()
        until(lambda: scheduler.stats().slots_free == 1)
        after = GenerateJob(NEEDLE, sampled(2))
        assert Reader(scheduler, after).finish().ids() == alone(engine, after)[0]


def test_a_slow_reader_stops_its_own_row_only(scheduler, engine):
    slow_job = GenerateJob(NEEDLE, sampled(8, 60))
    slow = Reader(scheduler, slow_job, buffer_capacity=4)
    until(lambda: not slow.ticket.has_room(0))
    for job in fillers(3, 5):
        assert Reader(scheduler, job).finish().ids() == alone(engine, job)[0]
    waiting = slow.take()
    assert sum(len(e.ids) for e in waiting if hasattr(e, "first_index")) == 4
    assert not slow.ticket.done
    assert (slow.finish().ids(), slow.logprobs()) == alone(engine, slow_job)


def test_an_idle_engine_takes_no_steps(scheduler):
    slow = Reader(scheduler, long_job(), buffer_capacity=2)
    until(lambda: not slow.ticket.has_room(0))
    threading.Event().wait(0.1)
    before = scheduler.stats().steps
    threading.Event().wait(0.1)
    assert scheduler.stats().steps == before
    slow.ticket.cancel()
    slow.finish()


def test_requests_start_in_the_order_in_which_they_came(engine):
    limits = SchedulerLimits(max_running=1, prefill_chunk=16, max_sequence_tokens=512)
    scheduler, order = Scheduler(engine, limits), []
    readers = []
    for number in range(6):
        reader = Reader(scheduler, GenerateJob(NEEDLE[: number + 1], sampled(number, 3)))
        reader.ticket.notify = lambda number=number: order.append(number)
        readers.append(reader)
    with scheduler:
        for reader in readers:
            until(lambda reader=reader: reader.ticket.done)
    assert order == sorted(order)


def test_a_wide_request_is_not_passed_over_by_later_narrow_ones(engine):
    limits = SchedulerLimits(max_running=2, prefill_chunk=16, max_sequence_tokens=512)
    scheduler, order = Scheduler(engine, limits), []
    jobs = [
        GenerateJob(NEEDLE, sampled(1, 30)),
        GenerateJob(NEEDLE, sampled(2, 4), num_samples=2),
        GenerateJob(NEEDLE, sampled(3, 4)),
    ]
    tickets = []
    for name, job in zip("abc", jobs, strict=True):
        tickets.append(scheduler.generate(job, lambda name=name: order.append(name)))
    with scheduler:
        for ticket in tickets:
            until(lambda ticket=ticket: ticket.done)
    assert order.index("b") < order.index("c")


def test_a_long_prompt_does_not_hold_up_the_tokens_of_others(engine):
    limits = SchedulerLimits(max_running=2, prefill_chunk=4, max_sequence_tokens=512)
    scheduler = Scheduler(engine, limits)
    running = Reader(scheduler, GenerateJob(NEEDLE[:2], GenerationOptions(max_new_tokens=30)), buffer_capacity=100)
    long = Reader(scheduler, GenerateJob(NEEDLE * 15, GenerationOptions(max_new_tokens=1)))
    with scheduler:
        running.finish()
        chunks = scheduler.stats().prefill_chunks
        long.finish()
    assert chunks <= 1 + len(running.ids()) + 2  # at most one chunk for each token of the other


def test_events_of_a_sample_are_one_start_contiguous_tokens_and_one_end(scheduler):
    readers = [
        Reader(scheduler, GenerateJob(j.prompt_ids, j.options, num_samples=1 + i % 3))
        for i, j in enumerate(fillers(9, 6))
    ]
    for i, reader in enumerate(readers):
        reader.finish()
        assert len(reader.started) == 1
        assert reader.events[0] is reader.started[0]
        assert sorted(f.sample_index for f in reader.finished) == list(range(1 + i % 3))
        for sample in range(1 + i % 3):
            expected = 0
            for event in (e for e in reader.events if hasattr(e, "first_index") and e.sample_index == sample):
                assert event.first_index == expected
                expected += len(event.ids)
            end = next(f for f in reader.finished if f.sample_index == sample)
            assert end.generated_tokens >= expected
            assert end.timing.queue_seconds >= 0


def test_scores_in_the_queue_equal_those_of_the_engine_in_any_order(scheduler, engine):
    sequences = [NEEDLE, NEEDLE * 4, list(b"AC"), list(b"acgtnACGT")]
    for prepend, strand in ((False, "forward"), (True, "forward"), (True, "both")):
        expected = engine.score(sequences, prepend_eod=prepend, strand=strand)
        busy = [Reader(scheduler, job) for job in fillers(3, 7)]
        reader = Reader(
            scheduler, ScoreJob(sequences, prepend_eod=prepend, strand=strand, return_logprobs=prepend)
        ).finish()
        assert [s.log_likelihood for s in reader.scores] == expected
        assert [s.index for s in reader.scores] == [0, 1, 2, 3]
        assert [s.timing is not None for s in reader.scores] == [False, False, False, True]
        back = Reader(scheduler, ScoreJob(sequences[::-1], prepend_eod=prepend, strand=strand)).finish()
        assert [s.log_likelihood for s in back.scores] == expected[::-1]
        if prepend:
            for score, ids in zip(reader.scores, sequences, strict=True):
                assert score.scored_tokens == len(ids) == len(score.logprobs)
                assert sum(score.logprobs) == pytest.approx(score.log_likelihood, rel=1e-9)
        for other in busy:
            other.finish()


def test_ignoring_the_end_of_a_document_goes_on_with_the_same_tokens(scheduler, engine):
    ended = next(
        (seed, result)
        for seed in range(100)
        if (result := engine.generate([NEEDLE], sampled(seed, 60))[0]).finish_reason == "end_of_document"
    )
    seed, short = ended
    reader = Reader(scheduler, GenerateJob(NEEDLE, sampled(seed, 60), ignore_end_of_document=True)).finish()
    assert reader.finished[0].reason == "max_new_tokens"
    assert reader.ids()[: len(short.ids) + 1] == [*short.ids, engine.tokenizer.eod_id]
    assert len(reader.ids()) == 60


def test_a_full_queue_refuses_by_count_and_by_tokens(engine):
    limits = SchedulerLimits(
        max_running=1, max_queued=2, max_queued_tokens=100, prefill_chunk=16, max_sequence_tokens=512
    )
    scheduler = Scheduler(engine, limits)
    scheduler.generate(GenerateJob([65] * 80, LONG))  # the free row is for this one
    scheduler.generate(GenerateJob(NEEDLE, LONG))
    with pytest.raises(QueueFull, match=r"106 tokens would wait, at most 100 may"):
        scheduler.generate(GenerateJob([65] * 80, LONG))
    scheduler.generate(GenerateJob([65] * 10, LONG))
    with pytest.raises(QueueFull, match=r"3 requests would wait, at most 2 may; try again later"):
        scheduler.generate(GenerateJob([65], LONG))
    with pytest.raises(RequestTooLarge, match="101 tokens; at most 100"):
        scheduler.generate(GenerateJob([65] * 101, LONG))
    assert scheduler.stats().queued == 3  # no step was taken yet
    assert scheduler.stats().queued_tokens == 80 + len(NEEDLE) + 10
    scheduler.close(0.0)


def test_a_queue_is_not_full_as_long_as_rows_are_free(engine):
    limits = SchedulerLimits(max_running=4, max_queued=1, prefill_chunk=16, max_sequence_tokens=512)
    scheduler = Scheduler(engine, limits)  # not started: nobody is given a row before the next call comes
    for _ in range(2):
        scheduler.generate(GenerateJob([65], LONG))
    scheduler.generate(GenerateJob([65], LONG, num_samples=2))  # the last two rows
    scheduler.score(ScoreJob([[65, 67]]))  # the one that may wait
    with pytest.raises(QueueFull, match=r"2 requests would wait, at most 1 may"):
        scheduler.generate(GenerateJob([65], LONG))
    scheduler.close(0.0)


def test_a_request_that_waits_for_rows_keeps_those_behind_it_waiting(engine):
    limits = SchedulerLimits(max_running=2, max_queued=1, prefill_chunk=16, max_sequence_tokens=512)
    scheduler = Scheduler(engine, limits)
    scheduler.generate(GenerateJob([65], LONG))
    scheduler.generate(GenerateJob([65], LONG, num_samples=2))  # one row is free, two are wanted
    with pytest.raises(QueueFull, match=r"2 requests would wait, at most 1 may"):
        scheduler.generate(GenerateJob([65], LONG))
    scheduler.close(0.0)


@pytest.mark.parametrize(
    ("job", "error", "text"),
    [
        (GenerateJob([], LONG), InvalidSequence, "prompt is empty"),
        (GenerateJob([600], LONG), InvalidSequence, "prompt has 600 at position 0"),
        (GenerateJob([65] * 512, LONG), RequestTooLarge, "512 tokens; at most 511"),
        (GenerateJob([65], LONG, num_samples=0), InvalidOption, "num_samples is 0"),
        (GenerateJob([65], LONG, num_samples=5), RequestTooLarge, "5 samples; at most 4"),
        (ScoreJob([]), InvalidSequence, "sequences is empty"),
        (ScoreJob([[65]]), InvalidSequence, r"sequences\[0\] has 1 token"),
        (ScoreJob([[65] * 513]), RequestTooLarge, "513 tokens; at most 512"),
    ],
)
def test_a_request_that_can_never_run_is_refused_at_once(scheduler, job, error, text):
    with pytest.raises(error, match=text):
        Reader(scheduler, job)


class Faulty:
    """Makes a network raise, or return NaN for one row, when it reads or steps a chosen token."""

    def __init__(self, network, token, effect):
        self._token, self._effect = token, effect
        self._encode, self._step, self._unembed = network.encode, network.step, network.unembed
        self._encode_last = network.encode_last
        network.encode, network.encode_last, network.step = self.encode, self.encode_last, self.step

    def encode(self, ids, state=None, *, starts=None):
        return self._spoiled(ids, self._encode(ids, state, starts=starts))

    def encode_last(self, ids, state, *, starts=None):
        return self._spoiled(ids, self._encode_last(ids, state, starts=starts))

    def _spoiled(self, ids, hidden):
        if self._token in ids.tolist()[0]:
            if self._effect == "raise":
                raise RuntimeError("boom")
            hidden = hidden * float("nan")
        return hidden

    def step(self, ids, state, *, active=None):
        logits = self._step(ids, state, active=active)
        hit = ids == self._token if active is None else (ids == self._token) & active
        if hit.any() and self._effect == "raise":
            raise RuntimeError("boom")
        return torch.where(hit[:, None], float("nan"), logits)


def faulty_scheduler(token, effect):
    network = tiny_network()
    Faulty(network, token, effect)
    engine = Engine(network, ByteTokenizer(), max_running=4, prefill_chunk=16, max_sequence_tokens=512)
    return Scheduler(
        engine, SchedulerLimits(max_running=4, prefill_chunk=16, max_sequence_tokens=512), poison_freed=True
    )


@pytest.mark.parametrize(("effect", "error"), [("raise", StepFailed), ("nan", NonFiniteLogits)])
def test_a_fault_in_a_prompt_ends_that_request_only(engine, effect, error):
    good = GenerateJob(NEEDLE, sampled(5, 40))
    with faulty_scheduler(ord("!"), effect) as scheduler:
        neighbour = Reader(scheduler, good)
        bad = [
            Reader(scheduler, GenerateJob([*NEEDLE, ord("!")], sampled(1))),
            Reader(scheduler, ScoreJob([[*NEEDLE, 33, 33]])),
        ]
        for reader in bad:
            assert isinstance(reader.finish().error, error)
        assert neighbour.finish().error is None
        assert (neighbour.ids(), neighbour.logprobs()) == alone(engine, good)
        assert scheduler.alive
        until(lambda: scheduler.stats().slots_free == 4)


def test_a_row_whose_logits_are_not_finite_ends_alone(engine):
    good = GenerateJob(NEEDLE, sampled(5, 40))
    ids = alone(engine, good)[0]
    bad = next(job for job in fillers(40, 9) if set(alone(engine, job)[0][:-1]) - set(ids))
    token = next(i for i in alone(engine, bad)[0][:-1] if i not in ids)
    with faulty_scheduler(token, "nan") as scheduler:
        readers = [Reader(scheduler, good), Reader(scheduler, bad)]
        assert isinstance(readers[1].finish().error, NonFiniteLogits)
        assert readers[0].finish().ids() == ids


def test_a_decode_step_that_raises_ends_its_requests_and_the_engine_goes_on(engine):
    job = GenerateJob(NEEDLE, sampled(5, 40))
    token = alone(engine, job)[0][10]
    with faulty_scheduler(token, "raise") as scheduler:
        assert isinstance(Reader(scheduler, job).finish().error, StepFailed)
        assert scheduler.alive
        again = Reader(scheduler, job).finish()
        assert "boom" in str(again.error)
        until(lambda: scheduler.stats().slots_free == 4)


def test_a_dead_engine_thread_shows_and_ends_every_request(engine, monkeypatch):
    scheduler = Scheduler(engine, SchedulerLimits(max_running=1, prefill_chunk=16, max_sequence_tokens=512))
    with scheduler:
        readers = [Reader(scheduler, long_job(), buffer_capacity=2) for _ in range(2)]
        until(lambda: not readers[0].ticket.has_room(0))
        assert scheduler.alive
        monkeypatch.setattr(scheduler._batch, "step", lambda: 1 / 0)
        readers[0].take()
        for reader in readers:
            assert isinstance(reader.finish().error, EngineStopped)
        until(lambda: not scheduler.alive)
        with pytest.raises(EngineStopped, match="division by zero"):
            scheduler.generate(GenerateJob(NEEDLE, LONG))


def test_a_reader_whose_notice_raises_is_dropped_alone(scheduler, engine):
    def broken():
        raise OSError("gone")

    lost = scheduler.generate(long_job(), broken)
    job = GenerateJob(NEEDLE, sampled(4))
    assert Reader(scheduler, job).finish().ids() == alone(engine, job)[0]
    until(lambda: lost.done)
    until(lambda: scheduler.stats().slots_free == 4)


def test_closing_lets_accepted_requests_end_and_takes_no_more(engine):
    scheduler = Scheduler(engine, SchedulerLimits(max_running=1, prefill_chunk=16, max_sequence_tokens=512))
    readers = [Reader(scheduler, GenerateJob(NEEDLE, sampled(i, 10))) for i in range(3)]
    scheduler.start()
    scheduler.close(30.0)
    assert [len(reader.finish().finished) for reader in readers] == [1, 1, 1]
    assert not scheduler.alive
    with pytest.raises(SchedulerClosed, match="takes no more"):
        scheduler.generate(GenerateJob(NEEDLE, LONG))


def test_closing_ends_what_does_not_end_in_time(engine):
    scheduler = Scheduler(engine, SchedulerLimits(max_running=1, prefill_chunk=16, max_sequence_tokens=512))
    readers = [Reader(scheduler, long_job(), buffer_capacity=2) for _ in range(2)]
    scheduler.start()
    scheduler.close(0.05)
    for reader in readers:
        assert isinstance(reader.finish().error, SchedulerClosed)
    assert scheduler.stats().slots_free == 1


def test_many_threads_may_submit_and_cancel_at_once(scheduler):
    failures = []

    def client(number):
        chance = random.Random(number)
        try:
            for job in fillers(4, number):
                reader = Reader(scheduler, job)
                if chance.random() < 0.5:
                    reader.ticket.cancel()
                reader.finish()
                assert len(reader.finished) + len(reader.of(type(reader.events[-1]))) >= 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    until(lambda: scheduler.stats().slots_free == 4)
    assert scheduler.alive


@pytest.mark.parametrize(
    "field", ["max_running", "max_queued", "max_queued_tokens", "prefill_chunk", "max_sequence_tokens"]
)
def test_a_limit_that_is_too_small_is_refused(field):
    with pytest.raises(InvalidOption, match=f"{field} is 0"):
        SchedulerLimits(**{field: 0})


def test_a_scheduler_takes_no_longer_sequences_than_its_engine(engine):
    with pytest.raises(InvalidOption, match="max_sequence_tokens is 513; accepted: an integer from 2 to 512"):
        Scheduler(engine, SchedulerLimits(max_sequence_tokens=513))
    assert Scheduler(engine, SchedulerLimits(max_running=1)).limits.max_sequence_tokens == 512


def test_a_limit_that_is_true_is_refused():
    with pytest.raises(InvalidOption, match="max_queued is True; accepted: an integer, 1 or more"):
        SchedulerLimits(max_queued=True)


def test_a_callback_that_closes_the_scheduler_waits_for_nobody(engine):
    scheduler = Scheduler(engine, SchedulerLimits(max_running=2, prefill_chunk=16, max_sequence_tokens=512))
    scheduler.start()
    ticket = scheduler.generate(long_job(), lambda: scheduler.close(5.0))
    start = time.monotonic()
    until(lambda: not scheduler.alive)
    assert time.monotonic() - start < 4
    assert ticket.done
    assert isinstance(ticket.take()[-1].error, SchedulerClosed)
    scheduler.close()
