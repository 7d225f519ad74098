import math
import random

import pytest

from packages.server.tests.fake_engine import FakeScheduler
from packages.server.tests.running_server import RunningServer
from subquad.inference import ByteTokenizer
from subquad.inference.errors import EngineStopped, NonFiniteLogits, StepFailed
from subquad.server import Delta, Finished, GenomicsClient, InternalError, Overloaded, Started, Unavailable
from subquad.server.generation import SampleBuffer
from subquad.server.limits import MAX_TOKENS_PER_MESSAGE


def events_of(client: GenomicsClient, **arguments):
    return list(client.generate("ACGT", **arguments))


def test_a_stream_is_one_started_then_contiguous_deltas_then_one_finished_a_sample(client):
    draw = random.Random(3)
    for _ in range(1000):
        length, samples, size = draw.randint(1, 24), draw.randint(1, 3), draw.choice([0, 1, 2, 5, 16])
        events = events_of(client, max_new_tokens=length, num_samples=samples, tokens_per_message=size)
        assert isinstance(events[0], Started)
        assert sum(isinstance(event, Started) for event in events) == 1
        for sample in range(samples):
            mine = [event for event in events[1:] if event.sample_index == sample]
            deltas = mine[:-1]
            assert isinstance(mine[-1], Finished)
            assert mine[-1].generated_tokens == length
            assert all(isinstance(delta, Delta) for delta in deltas)
            ends = [0, *(delta.first_index + len(delta.ids) for delta in deltas)]
            assert [delta.first_index for delta in deltas] == ends[:-1]
            assert ends[-1] == length


def test_the_first_token_comes_alone_and_the_others_in_messages_of_sixteen(client):
    sizes = [len(event.ids) for event in events_of(client, max_new_tokens=40) if isinstance(event, Delta)]
    assert sizes == [1, 16, 16, 7]


def test_the_message_size_changes_nothing_but_the_messages(client):
    whole = [client.generate("AC", max_new_tokens=33, tokens_per_message=n).result() for n in (1, 3, 16, 100)]
    assert all(result == whole[0] for result in whole)


def test_log_probabilities_come_only_when_asked_for_and_one_a_token(client):
    with_them = client.generate("A", max_new_tokens=20, return_logprobs=True).result()[0]
    assert with_them.logprobs == tuple(-0.25 * (i + 1) for i in range(20))
    assert client.generate("A", max_new_tokens=20).result()[0].logprobs == ()


def test_started_tells_the_seed_the_request_id_and_the_prompt_length(client):
    started = events_of(client, max_new_tokens=1, seed=2**64 - 1)[0]
    assert (started.seed, started.prompt_tokens, started.cached_prompt_tokens) == (2**64 - 1, 4, 0)
    assert started.request_id


def test_a_lower_case_prompt_is_folded_for_dna_and_kept_for_ascii(server, client):
    client.generate("acgtn", max_new_tokens=1).result()
    assert bytes(server.scheduler.jobs[-1].prompt_ids) == b"ACGTN"
    client.generate("|d__Bacteria;acgt|", max_new_tokens=1, alphabet="ascii").result()
    assert bytes(server.scheduler.jobs[-1].prompt_ids) == b"|d__Bacteria;acgt|"


def test_every_sampling_field_reaches_the_engine(server, client):
    client.generate(
        "A",
        max_new_tokens=2,
        temperature=0.5,
        top_k=4,
        top_p=0.75,
        seed=11,
        stop=["ac", "ac", "G"],
        num_samples=3,
        ignore_end_of_document=True,
        return_logprobs=True,
    ).result()
    job = server.scheduler.jobs[-1]
    options = job.options
    assert (job.num_samples, job.ignore_end_of_document) == (3, True)
    assert (options.max_new_tokens, options.temperature, options.top_k, options.top_p) == (2, 0.5, 4, 0.75)
    assert (options.seed, options.stop, options.return_logprobs) == (11, ("AC", "G"), True)


def test_unset_sampling_fields_are_greedy_and_leave_the_seed_to_the_engine(server, client):
    from subquad.genomics.v1 import service_pb2 as pb

    list(client._stub.GenerateSequence(pb.GenerateSequenceRequest(prompt="A", max_new_tokens=1)))
    options = server.scheduler.jobs[-1].options
    assert (options.temperature, options.top_k, options.top_p, options.seed) == (0.0, 0, 1.0, None)


def test_timing_is_returned_only_when_asked_for(client):
    from subquad.genomics.v1 import service_pb2 as pb

    request = pb.GenerateSequenceRequest(prompt="A", max_new_tokens=1)
    assert not list(client._stub.GenerateSequence(request))[-1].finished.HasField("timing")
    request.return_timing = True
    timing = list(client._stub.GenerateSequence(request))[-1].finished.timing
    assert (timing.queue.nanos, timing.prefill.nanos, timing.decode.nanos) == (500_000_000, 250_000_000, 125_000_000)


def test_a_token_that_is_not_printable_is_shown_as_the_replacement_character():
    buffer = SampleBuffer(tokens_per_message=16, next_index=1)
    buffer.push([65, 0, 10, 127, 300, 84], None)
    (message,) = buffer.messages(0, ByteTokenizer().decode, rest=True)
    assert message.delta.sequence == "A\ufffd\ufffd\ufffd\ufffdT"
    assert list(message.delta.token_ids) == [65, 0, 10, 127, 300, 84]


@pytest.mark.parametrize(
    ("failure", "expected", "said"),
    [
        (NonFiniteLogits("token 5"), InternalError, "not finite"),
        (EngineStopped("secret"), Unavailable, "engine has stopped"),
        (StepFailed("a secret of the kernel"), InternalError, "request id"),
    ],
)
def test_an_engine_error_in_the_middle_ends_that_stream_by_its_status(failure, expected, said):
    with RunningServer(FakeScheduler(fail_at=3, error=failure), serve=True) as server, server.client() as client:
        seen = []
        with pytest.raises(expected, match=said) as caught:
            seen.extend(client.generate("ACGT", max_new_tokens=30, tokens_per_message=1))
        assert "secret" not in str(caught.value)
        assert caught.value.request_id


def test_running_out_of_device_memory_is_resource_exhausted_without_its_text():
    failure = StepFailed("a step failed")
    failure.__cause__ = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate")
    with RunningServer(FakeScheduler(fail_at=3, error=failure)) as server, server.client() as client:
        with pytest.raises(Overloaded, match="ran out of memory") as caught:
            client.generate("ACGT", max_new_tokens=9).result()
        assert "CUDA" not in str(caught.value)
        assert client.generate("ACGT", max_new_tokens=2).result()


def test_a_delta_never_exceeds_one_mebibyte():
    buffer = SampleBuffer(tokens_per_message=MAX_TOKENS_PER_MESSAGE, next_index=1)
    buffer.push([300] * MAX_TOKENS_PER_MESSAGE, [-math.pi] * MAX_TOKENS_PER_MESSAGE)
    (message,) = buffer.messages(0, ByteTokenizer().decode)
    assert message.ByteSize() < 1 << 20
