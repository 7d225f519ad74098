"""Deadlines, cancellation, garbage and request ids: what holds for every call."""

import asyncio
import logging
import random
import threading
import time

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packages.server.tests.fake_engine import FakeScheduler
from packages.server.tests.running_server import RunningServer, wait_until
from subquad.genomics.v1 import service_pb2 as pb
from subquad.server import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MethodNotOffered,
    RequestCancelled,
    ServingLimits,
)
from subquad.server.boundary import Boundary
from subquad.server.client import typed_errors
from subquad.server.health import Phase, Readiness
from subquad.server.limits import SERVICE_NAME
from subquad.server.metrics import Metrics

METHODS = {
    "GetModel": (pb.GetModelRequest, False),
    "GenerateSequence": (pb.GenerateSequenceRequest, True),
    "ScoreSequences": (pb.ScoreSequencesRequest, False),
    "ScoreVariants": (pb.ScoreVariantsRequest, True),
    "EmbedSequences": (pb.EmbedSequencesRequest, True),
}
CODES_OF_BAD_INPUT = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def slow_server(**settings):
    return RunningServer(FakeScheduler(step_seconds=0.02), **settings)


def idle(server):
    """Whether no request holds a slot."""
    return server.scheduler.stats().running == 0 and server.scheduler.stats().queued == 0


def raw(channel, method, streaming):
    make = channel.unary_stream if streaming else channel.unary_unary
    return make(f"/{SERVICE_NAME}/{method}")


def outcome(call, data, streaming):
    """The status code and details of a call with raw bytes."""
    try:
        answer = call(data, timeout=10)
        if streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_an_invalid_argument(server, method):
    streaming = METHODS[method][1]
    with grpc.insecure_channel(server.address) as channel:
        code, details = outcome(raw(channel, method, streaming), b"\xff\xff\xff\xff", streaming)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message of this method's type" in details


def test_two_thousand_random_and_mutated_messages_end_by_a_status_of_bad_input(server):
    draw = random.Random(5)
    good = {
        "GetModel": pb.GetModelRequest(model="tiny"),
        "GenerateSequence": pb.GenerateSequenceRequest(
            prompt="ACGT", max_new_tokens=3, sampling=pb.SamplingOptions(temperature=1), stop_sequences=["AC"]
        ),
        "ScoreSequences": pb.ScoreSequencesRequest(sequences=["ACGT", "AC"], strand=1),
        "ScoreVariants": pb.ScoreVariantsRequest(
            reference_window="ACGT", variants=[pb.Variant(offset=1, reference_bases="C", alternate_bases="T")]
        ),
        "EmbedSequences": pb.EmbedSequencesRequest(sequences=["ACGT"], layers=["blocks.0"], pooling=1),
    }
    with grpc.insecure_channel(server.address) as channel:
        calls = {name: raw(channel, name, METHODS[name][1]) for name in METHODS}
        for index in range(2000):
            name = draw.choice(list(METHODS))
            data = bytearray(good[name].SerializeToString() if index % 2 else draw.randbytes(draw.randint(0, 60)))
            for _ in range(draw.randint(0, 4)):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
            code, details = outcome(calls[name], bytes(data), METHODS[name][1])
            assert code in CODES_OF_BAD_INPUT, (name, bytes(data), code, details)
            assert "Traceback" not in details
    with server.client() as client:
        assert client.score(["ACGT"])


NUMBERS = st.sampled_from([0, 1, 3, 2**31 - 1, 2**32 - 1])
FLOATS = st.sampled_from([0.0, 1.0, -1.0, 1e-38, 3e38, float("nan"), float("inf"), float("-inf")])
TEXTS = st.one_of(st.sampled_from(["", "ACGT", "\x00", "é", "acgt", "A" * 5000]), st.text(max_size=8))
OPTIONS = st.fixed_dictionaries(
    {}, optional={"temperature": FLOATS, "topK": NUMBERS, "topP": FLOATS, "seed": st.integers(0, 2**64 - 1)}
)
GENERATIONS = st.fixed_dictionaries(
    {},
    optional={
        "prompt": TEXTS,
        "maxNewTokens": NUMBERS,
        "sampling": OPTIONS,
        "stopSequences": st.lists(TEXTS, max_size=6),
        "tokensPerMessage": NUMBERS,
        "numSamples": NUMBERS,
        "alphabet": st.integers(-1, 5),
        "cacheSalt": TEXTS,
        "returnLogits": st.booleans(),
        "model": TEXTS,
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=GENERATIONS)
def test_any_values_of_the_fields_end_by_a_status_of_bad_input(server, fields):
    try:
        request = ParseDict(fields, pb.GenerateSequenceRequest())
    except Exception:
        return
    with grpc.insecure_channel(server.address) as channel:
        code, details = outcome(raw(channel, "GenerateSequence", True), request.SerializeToString(), True)
    assert code in CODES_OF_BAD_INPUT, (code, details)


def test_a_deadline_that_passes_while_running_frees_the_slot():
    with slow_server() as server, server.client() as client:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.generate("ACGT", max_new_tokens=4000, timeout=0.5).result()
        assert time.monotonic() - start < 1.5
        assert wait_until(lambda: idle(server)) < 0.5


def test_a_deadline_that_passes_in_the_queue_leaves_the_queue():
    with RunningServer(FakeScheduler(slots=1, step_seconds=0.02)) as server, server.client() as client:
        running = client.generate("ACGT", max_new_tokens=4000)
        next(running)
        with pytest.raises(DeadlineExceeded):
            client.generate("ACGT", max_new_tokens=1, timeout=0.3).result()
        wait_until(lambda: server.scheduler.stats().queued == 0)
        assert server.scheduler.stats().running == 1


@pytest.mark.parametrize(("default", "longest"), [(0.3, 5.0), (0.2, 0.3)])
def test_a_request_without_a_deadline_ends_at_the_default_one(default, longest):
    limits = ServingLimits(default_deadline=default, max_deadline=longest)
    with slow_server(limits=limits) as server, server.client(timeout=None) as client:
        with pytest.raises(DeadlineExceeded, match=f"did not end within {default} s"):
            client.generate("ACGT", max_new_tokens=4000).result()
        wait_until(lambda: idle(server))


def test_a_deadline_above_the_maximum_is_cut_to_it():
    limits = ServingLimits(default_deadline=0.2, max_deadline=0.4)
    with slow_server(limits=limits) as server, server.client(timeout=60) as client:
        stream = client.generate("ACGT", max_new_tokens=4000)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.4 s"):
            stream.result()


@pytest.mark.parametrize("tokens_before", [0, 1, 5])
def test_a_cancelled_stream_frees_its_slot_within_a_step(tokens_before):
    with slow_server() as server, server.client() as client:
        stream = client.generate("ACGT", max_new_tokens=4000, tokens_per_message=1)
        for _ in range(tokens_before + 1):
            next(stream)
        stream.close()
        assert wait_until(lambda: idle(server)) < 0.5
        with pytest.raises(RequestCancelled):
            next(stream)


def test_a_storm_of_cancelled_streams_leaks_no_slot_and_logs_no_error(caplog):
    draw = random.Random(1)
    with RunningServer(FakeScheduler(slots=50, step_seconds=0.001)) as server, server.client() as client:
        for _ in range(10):
            streams = [client.generate("ACGT", max_new_tokens=4000, tokens_per_message=1) for _ in range(50)]
            for stream in draw.sample(streams, len(streams)):
                if draw.random() < 0.3:
                    next(stream)
                stream.close()
        wait_until(lambda: idle(server))
        wait_until(lambda: not server.server._boundary._calls)
        assert client.generate("ACGT", max_new_tokens=2).result()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_callers_request_id_is_echoed_and_a_bad_one_replaced(client):
    for given_id, kept in (("run-7.A_b", True), ("x" * 65, False), ("a b", False)):
        metadata = (("x-request-id", given_id),)
        stream = client._stub.GenerateSequence(
            pb.GenerateSequenceRequest(prompt="ACGT", max_new_tokens=1), metadata=metadata
        )
        started = next(stream).started
        list(stream)
        echoed = dict(stream.initial_metadata())["x-request-id"]
        assert echoed == started.request_id
        assert (echoed == given_id) is kept
        _, call = client._stub.GetModel.with_call(pb.GetModelRequest(), metadata=metadata)
        assert (dict(call.initial_metadata())["x-request-id"] == given_id) is kept


def test_a_refusal_carries_the_request_id_in_its_trailers(client):
    with pytest.raises(grpc.RpcError) as caught:
        client._stub.GetModel(pb.GetModelRequest(model="other"), metadata=(("x-request-id", "mine"),))
    assert dict(caught.value.trailing_metadata())["x-request-id"] == "mine"


def test_logs_name_fields_and_never_hold_a_sequence(client, caplog):
    secret = "GATTACAGATTACA"
    with caplog.at_level(logging.DEBUG):
        client.score([secret])
        client.generate(secret, max_new_tokens=3, stop=[secret]).result()
        with pytest.raises(InvalidRequest):
            client.score([secret, secret + "Z"])
        with pytest.raises(InvalidRequest):
            client.generate(secret + "?", max_new_tokens=3).result()
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "method=ScoreSequences code=OK" in logged
    assert "fields=sequences[1]" in logged
    assert secret not in logged
    assert secret.lower() not in logged


def test_an_error_of_our_own_is_internal_and_only_the_log_names_it(server, client, monkeypatch, caplog):
    def broken(*_):
        raise KeyError("a secret")

    for place, name in ((server.scheduler, "score"), (server.server._service._scorer, "sequences")):
        monkeypatch.setattr(place, name, broken)
        caplog.clear()
        with pytest.raises(InternalError) as caught:
            client.score(["ACGT"])
        assert "secret" not in str(caught.value)
        assert caught.value.request_id in caplog.text
        assert "a secret" in caplog.text


def test_eight_streams_together_take_far_less_than_eight_times_one():
    with slow_server() as server, server.client() as client:
        start = time.monotonic()
        client.generate("ACGT", max_new_tokens=10).result()
        alone = time.monotonic() - start
        threads = [threading.Thread(target=lambda: client.generate("AC", max_new_tokens=10).result()) for _ in range(8)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - start < 4 * alone


def test_status_errors_of_the_transport_are_typed_too(server):
    with grpc.insecure_channel(server.address) as channel:
        missing = channel.unary_unary(f"/{SERVICE_NAME}/NoSuchMethod")
        with pytest.raises(MethodNotOffered), typed_errors():
            missing(b"", timeout=5)


def test_a_message_that_cannot_be_sent_since_the_reader_has_gone_is_a_cancellation(caplog):
    freed = []

    class Context:
        """gRPC's context of a call whose reader has gone: sends fail, and the cancellation comes a moment later."""

        def invocation_metadata(self):
            return ()

        def time_remaining(self):
            return None

        async def send_initial_metadata(self, metadata):
            pass

        async def write(self, message):
            raise RuntimeError("execute_batch failed")

    async def behaviour(request, call):
        try:
            yield "message"
        finally:
            freed.append(call)

    async def answer():
        readiness = Readiness()
        await readiness.enter(Phase.SERVING)
        boundary = Boundary(readiness, ServingLimits(), Metrics())
        task = asyncio.create_task(boundary._streaming("Method", behaviour)("request", Context()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return boundary._calls

    with caplog.at_level(logging.INFO):
        assert asyncio.run(answer()) == set()
    assert len(freed) == 1
    assert [record.levelname for record in caplog.records if record.name == "subquad.server.boundary"] == ["INFO"]
    assert "code=CANCELLED" in caplog.text


class HeadersOnTheirWay:
    """gRPC's context of a call that takes a while to send its headers and no status before they are sent."""

    def __init__(self, *, there):
        self.there, self.sent, self.status = there, False, None

    def invocation_metadata(self):
        return ()

    def time_remaining(self):
        return 0.05

    async def send_initial_metadata(self, metadata):
        await asyncio.sleep(0.2)
        self.sent = True

    async def abort(self, code, message, trailing_metadata):
        if not self.sent or not self.there:
            raise RuntimeError("GRPC_CALL_ERROR_TOO_MANY_OPERATIONS")
        self.status = code
        raise grpc.aio.AbortError


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_deadline_that_passes_while_headers_are_sent_is_still_answered(streaming, there, caplog):
    context = HeadersOnTheirWay(there=there)

    async def stream(request, call):
        yield "message"

    async def single(request, call):
        return "message"

    async def answer():
        readiness = Readiness()
        await readiness.enter(Phase.SERVING)
        boundary = Boundary(readiness, ServingLimits(), Metrics())
        method = boundary._streaming("Method", stream) if streaming else boundary._unary("Method", single)
        with pytest.raises(grpc.aio.AbortError if there else asyncio.CancelledError):
            await method("request", context)

    with caplog.at_level(logging.INFO):
        asyncio.run(answer())
    assert context.status is (grpc.StatusCode.DEADLINE_EXCEEDED if there else None)
    assert "code=DEADLINE_EXCEEDED" in caplog.text
