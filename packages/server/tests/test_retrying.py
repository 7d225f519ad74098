"""Calls that no server could answer are asked again, and always end."""

import asyncio
import concurrent.futures

import grpc
import pytest

from packages.server.tests.fake_engine import FakeScheduler
from packages.server.tests.running_server import RunningServer, wait_until
from subquad.server import AsyncGenomicsClient, GenomicsClient, Stream, Unavailable
from subquad.server.retrying import ATTEMPTS, Attempts, answer


class Refused(grpc.RpcError):
    """What gRPC raises for a call that ended with a status."""

    def __init__(self, code=grpc.StatusCode.UNAVAILABLE):
        self._code = code

    def code(self):
        return self._code

    def details(self):
        return "gone"

    def trailing_metadata(self):
        return ()


def refusing(times, code=grpc.StatusCode.UNAVAILABLE):
    """A call that fails so many times, with the timeouts of its attempts."""
    timeouts = []

    def start(seconds):
        timeouts.append(seconds)
        if len(timeouts) <= times:
            raise Refused(code)
        return "answer"

    return start, timeouts


def full_server(**settings):
    return RunningServer(FakeScheduler(slots=1, step_seconds=0.01), **settings)


def test_a_call_is_asked_again_until_it_is_answered():
    start, timeouts = refusing(2)
    assert answer(Attempts(start, 5.0)) == "answer"
    assert timeouts == sorted(timeouts, reverse=True)
    assert len(timeouts) == 3
    assert 5.0 - timeouts[-1] >= 0.8 * (0.1 + 0.2)


def test_the_last_of_five_refusals_is_the_answer(monkeypatch):
    pauses = []
    monkeypatch.setattr("subquad.server.retrying.time.sleep", pauses.append)
    start, timeouts = refusing(100)
    with pytest.raises(Refused):
        answer(Attempts(start, None))
    assert timeouts == [None] * ATTEMPTS
    assert [pause / wanted for pause, wanted in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True)] == pytest.approx(
        [1.0] * 4, abs=0.2
    )


def test_no_attempt_is_made_that_cannot_end_in_time():
    start, timeouts = refusing(100)
    with pytest.raises(Refused):
        answer(Attempts(start, 0.05))
    assert len(timeouts) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_other_refusals_are_not_asked_again(code):
    start, timeouts = refusing(100, code)
    with pytest.raises(Refused):
        answer(Attempts(start, 5.0))
    assert len(timeouts) == 1


@pytest.mark.parametrize("timeout", [None, 8.0])
def test_waiting_calls_end_where_the_only_server_goes_away(timeout):
    with full_server(drain_seconds=0.2) as server, server.client(timeout=timeout) as client:
        running = client.generate("ACGT", max_new_tokens=4000)
        next(running)
        threads = concurrent.futures.ThreadPoolExecutor(5)
        waiting = [threads.submit(client.generate("ACGT", max_new_tokens=9).result) for _ in range(4)]
        waiting.append(threads.submit(client.score, ["ACGT"]))
        wait_until(lambda: server.scheduler.stats().queued == 5)
        server.drain()
        done, hanging = concurrent.futures.wait(waiting, timeout=6)
        threads.shutdown(wait=False, cancel_futures=True)
        assert not hanging
        assert all(isinstance(call.exception(), Unavailable) for call in done)


def test_awaited_calls_end_where_the_only_server_goes_away():
    async def ask(server):
        async with AsyncGenomicsClient(server.address) as client:
            running = client.generate("ACGT", max_new_tokens=4000)
            await anext(running)
            streams = [client.generate("ACGT", max_new_tokens=9) for _ in range(4)]
            waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
            waiting.append(asyncio.ensure_future(client.score(["ACGT"])))
            await asyncio.to_thread(wait_until, lambda: server.scheduler.stats().queued == 5)
            await asyncio.to_thread(server.drain)
            done, hanging = await asyncio.wait(waiting, timeout=6)
            assert not hanging
            return [call.exception() for call in done]

    with full_server(drain_seconds=0.2) as server:
        errors = asyncio.run(ask(server))
    assert all(isinstance(error, Unavailable) for error in errors)


def test_waiting_streams_go_to_the_server_that_is_left():
    with (
        full_server(drain_seconds=0.2) as first,
        RunningServer() as second,
        GenomicsClient(f"ipv4:{first.address},{second.address}", timeout=10) as client,
    ):
        wait_until(lambda: client.score(["ACGT"]) and bool(second.scheduler.jobs))
        streams = [client.generate("ACGT", max_new_tokens=400) for _ in range(6)]
        wait_until(lambda: first.scheduler.stats().queued >= 2)
        threads = concurrent.futures.ThreadPoolExecutor(6)
        results = [threads.submit(stream.result) for stream in streams]
        first.drain()
        ended = [result.exception(10) for result in results]
    assert sum(error is None for error in ended) == 5  # all but the one that the first server had begun
    assert sum(isinstance(error, Unavailable) for error in ended) == 1


def test_a_stream_that_was_closed_is_not_asked_again():
    class RefusedCall:
        def __next__(self):
            raise Refused

        def cancel(self):
            pass

    calls = []
    stream = Stream(Attempts(lambda seconds: calls.append(seconds) or RefusedCall(), None), str)
    stream.close()
    with pytest.raises(Unavailable):
        next(stream)
    assert len(calls) == 1
