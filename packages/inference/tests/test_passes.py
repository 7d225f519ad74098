"""Passes one behind the other: a device has the next chunk before anybody waits for the one before."""

import gc
import weakref

import pytest
import torch

from packages.inference.tests.conftest import tiny_network
from packages.inference.tests.reading import Reader, until
from packages.inference.tests.watched import CHUNK, Watched
from subquad.inference import (
    ByteTokenizer,
    Embedded,
    EmbedJob,
    Engine,
    Scheduler,
    SchedulerLimits,
    Scored,
    ScoreJob,
)
from subquad.inference.errors import NonFiniteActivations, NonFiniteLogits, StepFailed
from subquad.inference.network import require_alive
from subquad.inference.passes import StatesInTurn, side_by_side

TEXTS = ["ACGTTTACG" * 7, "GATTACA" * 8, "CCGT" * 11, "GG", "ACGT", "TTAGGG" * 3]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A watched tiny network and its engine, with chunks of 16 tokens."""
    return Watched(monkeypatch)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["ACGT"], "launch read"),
        (["ACGT", "TTAGG", "GATTAC"], "launch launch read launch read read"),
        (["A" * 40], "launch launch read launch read read"),
        (["A" * 20, "C" * 20], "launch launch read launch read launch read read"),
    ],
)
@pytest.mark.parametrize("call", ["score", "embed"])
def test_a_result_is_read_once_the_next_chunk_was_launched(watched, texts, expected, call):
    if call == "score":
        watched.engine.score(texts)
    else:
        watched.engine.embed(texts, ["blocks.1"], pooling="none")
    assert watched.events == expected.split()


def test_pooled_vectors_are_read_once_a_sequence(watched):
    watched.engine.embed(["A" * 20, "C" * 20], ["blocks.1"])
    assert watched.events == ["launch", "launch", "launch", "read", "launch", "read"]


@pytest.mark.parametrize("keep", ["sum", "none"])
@pytest.mark.parametrize("strand", ["forward", "both"])
def test_scores_one_behind_the_other_are_bitwise_those_of_each_alone(engine, keep, strand):
    options = {"reduce": keep, "strand": strand, "prepend_eod": True}
    together = engine.score(TEXTS, **options)
    assert together == [engine.score([text], **options)[0] for text in TEXTS]
    assert engine.score(TEXTS[::-1], **options) == together[::-1]


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "none"])
def test_vectors_one_behind_the_other_are_bitwise_those_of_each_alone(engine, pooling):
    together = engine.embed(TEXTS, ["blocks.2", "blocks.-1"], pooling=pooling)
    for text, found in zip(TEXTS, together, strict=True):
        (alone,) = engine.embed([text], ["blocks.2", "blocks.-1"], pooling=pooling)
        assert all(torch.equal(found[layer], alone[layer]) for layer in alone)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(("place", "tokens"), [(0, "0 to 15"), (15, "0 to 15"), (16, "16 to 31"), (33, "32 to {last}")])
def test_the_error_names_the_chunk_of_the_sequence_that_failed(watched, position, place, tokens):
    texts = ["ACGT" * 11, "GATTA" * 8 + "AC", "C" * 40]  # read in this order, three chunks each
    bad = texts[position]
    texts[position] = bad[:place] + "N" + bad[place + 1 :]
    with pytest.raises(NonFiniteLogits, match=f"the tokens {tokens.format(last=len(bad) - 2)} are not finite"):
        watched.engine.score(texts)
    assert watched.events.count("launch") <= 3 * position + place // CHUNK + 2


def test_of_two_that_failed_the_first_is_told(watched):
    with pytest.raises(NonFiniteLogits, match="the tokens 0 to 7 are not finite"):
        watched.engine.score(["ACGTNACGT", "ACGTNACGTACGT", "AC"])


def test_a_launch_that_fails_hides_nothing_of_the_sequence_before(watched, monkeypatch):
    encode = watched.network.encode

    def failing(ids, *arguments, **keywords):
        if ord("X") in ids:
            raise MemoryError("no room")
        return encode(ids, *arguments, **keywords)

    monkeypatch.setattr(watched.network, "encode", failing)
    with pytest.raises(NonFiniteLogits, match="the tokens 0 to 5 are not finite"):
        watched.engine.score(["ACNTACG", "ACXA"])
    with pytest.raises(MemoryError):
        watched.engine.score(["ACGTACG", "ACXA"])
    limits = SchedulerLimits(max_running=2, prefill_chunk=CHUNK, max_sequence_tokens=512)
    with Scheduler(watched.engine, limits) as scheduler:
        reader = Reader(scheduler, ScoreJob([list(b"ACGT"), list(b"ACG"), list(b"ACXA")])).finish()
        assert [event.index for event in reader.of(Scored)] == [0, 1]
        assert isinstance(reader.error, StepFailed)
        reader = Reader(scheduler, ScoreJob([list(b"ACGT"), list(b"NACG"), list(b"ACXA")])).finish()
        assert [event.index for event in reader.of(Scored)] == [0]
        assert isinstance(reader.error, NonFiniteLogits)


def test_vectors_of_a_sequence_that_failed_are_not_returned(watched):
    for bad in range(3):
        texts = ["ACGT" * 6, "GATTA" * 4, "CC"]
        texts[bad] = "N" + texts[bad][1:]
        with pytest.raises(NonFiniteActivations, match=r"the activations of blocks\.1 are not finite"):
            watched.engine.embed(texts, ["blocks.1"])


@pytest.mark.parametrize("place", [3, 20, 39])
def test_a_scheduler_returns_the_sequences_before_one_that_failed_and_nothing_of_it(watched, place):
    bad = "ACGT" * 10 + "A"
    sequences = [list(text.encode()) for text in ("ACGT" * 9, bad[:place] + "N" + bad[place + 1 :], "GATTACA")]
    limits = SchedulerLimits(max_running=2, prefill_chunk=CHUNK, max_sequence_tokens=512)
    with Scheduler(watched.engine, limits, poison_freed=True) as scheduler:
        reader = Reader(scheduler, ScoreJob(sequences)).finish()
        assert [event.index for event in reader.of(Scored)] == [0]
        start = place // CHUNK * CHUNK
        assert isinstance(reader.error, NonFiniteLogits)
        assert f"the tokens {start} to {min(start + CHUNK, 40) - 1} " in str(reader.error)
        good = Reader(scheduler, ScoreJob(sequences[::2])).finish()
        assert [e.log_likelihood for e in good.of(Scored)] == watched.engine.score(sequences[::2])


@pytest.mark.parametrize("strand", ["forward", "both"])
def test_a_scheduler_too_has_the_next_chunk_under_way_when_it_reads(watched, strand):
    sequences = [list(text.encode()) for text in ("ACGT", "TTAGG", "C" * 20)]
    limits = SchedulerLimits(max_running=2, prefill_chunk=CHUNK, max_sequence_tokens=512)
    with Scheduler(watched.engine, limits) as scheduler:
        found = Reader(scheduler, ScoreJob(sequences, strand=strand)).finish().of(Scored)
    passes = (
        "launch launch read launch read launch read read"
        if strand == "forward"
        else ("launch launch read launch read launch read launch read launch read launch read launch read read")
    )
    assert watched.events == passes.split()
    assert [event.index for event in found] == [0, 1, 2]
    assert [event.log_likelihood for event in found] == watched.engine.score(sequences, strand=strand)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_a_scheduler_embeds_one_behind_the_other_too(watched, pooling):
    texts = ["ACGT", "TTAGG", "C" * 20]
    job = EmbedJob([list(text.encode()) for text in texts], ["blocks.2"], pooling=pooling)
    limits = SchedulerLimits(max_running=2, prefill_chunk=CHUNK, max_sequence_tokens=512)
    with Scheduler(watched.engine, limits, poison_freed=True) as scheduler:
        ticket = scheduler.embed(job)
        until(lambda: ticket.done)
    chunks = "launch read launch read read" if pooling == "none" else "launch read launch read"
    assert watched.events == ["launch", *f"launch read {chunks}".split()]
    found = [event for event in ticket.take() if isinstance(event, Embedded)]
    assert [event.index for event in found] == [0, 1, 2]
    for event, alone in zip(found, watched.engine.embed(texts, ["blocks.2"], pooling=pooling), strict=True):
        assert torch.equal(event.values["blocks.2"], alone["blocks.2"])


def test_a_state_is_used_again_where_it_is_large_enough(network):
    states = StatesInTurn(network, CHUNK, torch.device("cpu"))
    first = states.empty(1, 60)
    assert first is not None
    expected = network.encode(torch.full((1, 20), 65), first).clone()
    assert states.empty(1, 40) is first
    assert torch.equal(network.encode(torch.full((1, 20), 65), first), expected)
    assert states.empty(2, 40) is not first
    assert states.empty(1, 16) is None


def test_no_two_states_are_alive_at_once(monkeypatch):
    network, alive = tiny_network(), []
    init_state = network.init_state

    def counted(*arguments, **keywords):
        state = init_state(*arguments, **keywords)
        if state.position.is_meta:  # to know what it would take
            return state
        gc.collect()
        assert not any(before() is not None for before in alive)
        alive.append(weakref.ref(state))
        return state

    monkeypatch.setattr(network, "init_state", counted)
    engine = Engine(network, ByteTokenizer(), prefill_chunk=CHUNK)
    texts = ["ACGT" * 10, "GATTACA" * 5, "C" * 33]
    assert len(engine.score(texts, batch_size=2)) == 3
    assert len(engine.embed(texts, ["blocks.0"], batch_size=2)) == 3
    assert len(alive) == 2  # one after the other reads all of them


def test_what_a_lost_process_gave_is_refused_before_it_is_judged(watched, monkeypatch):
    def lost():
        raise ConnectionError("a rank has ended")

    monkeypatch.setattr(watched.network, "require_alive", lost, raising=False)
    with pytest.raises(ConnectionError):
        require_alive(watched.network)
    for call in (lambda: watched.engine.score(["NNN"]), lambda: watched.engine.embed(["NNN"], ["blocks.0"])):
        with pytest.raises(ConnectionError):
            call()


@pytest.mark.parametrize(
    ("lengths", "batch_size", "batches"),
    [
        ([5, 9, 7], 1, [[0], [1], [2]]),
        ([5, 9, 7, 8], 2, [[1], [3, 2], [0]]),
        ([16, 16, 16], 8, [[0], [1], [2]]),
        ([100, 8, 8, 8, 4, 4, 4, 4, 4], 8, [[0], [1, 2], [3, 4], [5, 6, 7, 8]]),
        ([0, 0], 8, [[0, 1]]),
        ([], 8, []),
    ],
)
def test_sequences_are_read_side_by_side_up_to_a_chunk_of_tokens(
    lengths: list[int], batch_size: int, batches: list[list[int]]
) -> None:
    assert side_by_side(lengths, batch_size, 16) == batches


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [([5, 2, 7, 8, 1], [[0, 1], [2, 3], [4]]), ([2, 16, 5, 5, 5], [[0], [1], [2, 3], [4]]), ([40, 4], [[0], [1]])],
)
def test_sequences_that_keep_their_order_are_read_with_their_neighbours(lengths, batches) -> None:
    assert side_by_side(lengths, 2, 16, keep_order=True) == batches


def test_vectors_of_each_token_are_held_for_two_passes_at_most(watched) -> None:
    """The longest come last, and would all be held until they were read if they went first."""
    texts = ["AC" * (1 + k // 4) for k in range(12)]
    held: list[weakref.ref[torch.Tensor]] = []
    for number, found in enumerate(watched.engine.embed_each(texts, ["blocks.1"], pooling="none", batch_size=2)):
        assert found["blocks.1"].shape[0] == len(texts[number])
        held.append(weakref.ref(found["blocks.1"]))
        del found
        assert sum(ref() is not None for ref in held) <= 1
        assert watched.events.count("launch") <= number // 2 + 2


def test_long_sequences_of_a_batch_are_scored_as_alone(network: torch.nn.Module) -> None:
    engine = Engine(network, ByteTokenizer(network.vocab_size), prefill_chunk=64)
    texts = ["ACGT" * 16, "GATTACAG" * 9, "CC" * 32]
    assert engine.score(texts, batch_size=3) == [engine.score([text])[0] for text in texts]
