"""Health, queue, slow readers, drain, listening."""

import statistics
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from packages.server.tests.fake_engine import FakeScheduler
from packages.server.tests.running_server import RunningServer, wait_until
from subquad.genomics.v1 import service_pb2 as pb
from subquad.genomics.v1 import service_pb2_grpc
from subquad.inference.errors import StepFailed
from subquad.server import (
    GenomicsClient,
    InternalError,
    ListenError,
    Overloaded,
    ServingLimits,
    SettingsError,
    Unavailable,
)
from subquad.server.hosting import ServerSettings
from subquad.server.limits import SERVICE_NAME
from subquad.server.security import Security

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


def check(channel, name=SERVICE_NAME):
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status


class Watcher:
    """Collects what Watch says."""

    def __init__(self, channel, name):
        self.seen = []
        self._call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for answer in self._call:
                self.seen.append(answer.status)
        except grpc.RpcError:
            pass


@pytest.mark.parametrize("name", ["", SERVICE_NAME])
def test_check_and_watch_see_loading_serving_and_draining(name):
    with RunningServer(serve=False) as server, grpc.insecure_channel(server.address) as channel:
        watcher = Watcher(channel, name)
        assert check(channel, name) == NOT_SERVING
        wait_until(lambda: watcher.seen == [NOT_SERVING])
        server.run(server.server.serve(server.served))
        assert check(channel, name) == SERVING
        wait_until(lambda: watcher.seen == [NOT_SERVING, SERVING])
        server.drain()
        wait_until(lambda: watcher.seen == [NOT_SERVING, SERVING, NOT_SERVING])


def test_a_server_that_loads_answers_unavailable_with_a_time_to_retry():
    with RunningServer(serve=False) as server, grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{SERVICE_NAME}/GetModel")
        with pytest.raises(grpc.RpcError, match="still loading its model") as caught:
            call(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert b"RetryInfo" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]


def test_a_server_whose_first_run_fails_never_says_serving():
    scheduler = FakeScheduler(fail_at=0, error=StepFailed("no kernel"))
    with RunningServer(scheduler, serve=False) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(InternalError):
            server.run(server.server.serve(server.served))
        assert check(channel) == NOT_SERVING


def test_a_dead_engine_is_not_serving_and_its_streams_end_unavailable():
    with (
        RunningServer(FakeScheduler(step_seconds=0.02)) as server,
        server.client() as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = client.generate("ACGT", max_new_tokens=4000, tokens_per_message=1)
        next(stream)
        server.scheduler.die()
        start = time.monotonic()
        with pytest.raises(Unavailable, match="engine has stopped"):
            stream.result()
        wait_until(lambda: check(channel) == NOT_SERVING)
        assert time.monotonic() - start < 5
        assert server.server.engine_failed
        server.run(server.server.wait_for_engine_failure())


def test_a_step_that_hangs_counts_as_a_dead_engine():
    with RunningServer(watchdog_seconds=0.5) as server, grpc.insecure_channel(server.address) as channel:
        assert check(channel) == SERVING
        server.scheduler.step_seconds_so_far = 1.0
        wait_until(lambda: check(channel) == NOT_SERVING)


def test_a_full_queue_refuses_at_once_with_a_time_to_retry_and_its_quota():
    with RunningServer(FakeScheduler(slots=1, max_queued=3, step_seconds=0.02)) as server, server.client() as client:
        streams = [client.generate("ACGT", max_new_tokens=4000)]
        next(streams[0])
        streams += [client.generate("ACGT", max_new_tokens=4000) for _ in range(3)]
        wait_until(lambda: server.scheduler.stats().queued == 3)
        times = []
        for _ in range(5):
            start = time.monotonic()
            with pytest.raises(Overloaded, match="queue is full") as caught:
                client.score(["ACGT"])
            times.append(time.monotonic() - start)
            assert caught.value.retry_delay == 1.0
            assert caught.value.quota == "queued requests"
        assert min(times) < 0.02
        for stream in streams:
            stream.close()
        wait_until(lambda: server.scheduler.stats().running == 0)
        assert client.score(["ACGT"])


def test_a_reader_who_stalls_holds_back_its_own_stream_alone():
    scheduler = FakeScheduler(max_sequence_tokens=1 << 20)
    small_window = [("grpc.http2.lookahead_bytes", 4096), ("grpc.http2.bdp_probe", 0)]
    with (
        RunningServer(scheduler, limits=ServingLimits(max_new_tokens=15_000)) as server,
        server.client() as client,
        grpc.insecure_channel(server.address, options=small_window) as channel,
    ):
        stub = service_pb2_grpc.GenomicsServiceStub(channel)
        request = pb.GenerateSequenceRequest(prompt="ACGT", max_new_tokens=15_000, tokens_per_message=1)
        stalled = stub.GenerateSequence(request)
        next(stalled)
        made = -1
        while made != (made := server.server.metrics.generated_tokens._value.get()):
            time.sleep(0.2)
        assert made < 10_000
        others = [client.generate("ACGT", max_new_tokens=500).result() for _ in range(4)]
        assert all(len(sample.ids) == 500 for (sample,) in others)
        assert sum(len(message.delta.token_ids) for message in stalled) == 15_000


def test_health_answers_quickly_while_every_slot_is_busy():
    with RunningServer(FakeScheduler(slots=4, step_seconds=0.001)) as server, server.client() as client:
        streams = [client.generate("ACGT", max_new_tokens=4000, tokens_per_message=1) for _ in range(16)]
        with grpc.insecure_channel(server.address) as channel:
            check(channel)
            times = []
            for _ in range(50):
                start = time.monotonic()
                assert check(channel) == SERVING
                times.append(time.monotonic() - start)
        for stream in streams:
            stream.close()
    assert statistics.median(times) < 0.05


def test_running_streams_end_well_while_the_server_drains():
    with RunningServer(FakeScheduler(step_seconds=0.01)) as server, server.client() as client:
        streams = [client.generate("ACGT", max_new_tokens=60, tokens_per_message=1) for _ in range(16)]
        for stream in streams:
            next(stream)
        draining = server.start(server.server.drain())
        server._drained = True
        results = [stream.result()[0] for stream in streams]
        assert all(len(sample.ids) == 60 for sample in results)
        draining.result(10)
        with pytest.raises(Unavailable):
            client.score(["ACGT"], timeout=2)


def test_streams_that_outlast_the_drain_end_unavailable():
    with RunningServer(FakeScheduler(step_seconds=0.01), drain_seconds=0.3) as server, server.client() as client:
        stream = client.generate("ACGT", max_new_tokens=4000)
        next(stream)
        start = time.monotonic()
        draining = server.start(server.server.drain())
        server._drained = True
        with pytest.raises(Unavailable, match="shutting down"):
            stream.result()
        draining.result(10)
        assert time.monotonic() - start < 0.3 + 2


def test_a_watcher_of_health_does_not_hold_up_the_drain():
    with RunningServer(drain_seconds=20) as server, grpc.insecure_channel(server.address) as channel:
        watcher = Watcher(channel, "")
        wait_until(lambda: watcher.seen == [SERVING])
        start = time.monotonic()
        server.drain()
        assert time.monotonic() - start < 3


def test_a_rolling_restart_of_two_servers_fails_no_call():
    with RunningServer() as first, RunningServer() as second:
        target = f"ipv4:{first.address},{second.address}"
        with GenomicsClient(target, timeout=10) as client:
            for index in range(200):
                if index == 60:
                    draining = first.start(first.server.drain())
                    first._drained = True
                assert client.score(["ACGT"])
            draining.result(10)
        assert any(len(job.sequences) for job in second.scheduler.jobs if hasattr(job, "sequences"))


def test_calls_go_round_robin_to_healthy_servers_only():
    with RunningServer() as first, RunningServer() as second, RunningServer(serve=False) as loading:
        with GenomicsClient(f"ipv4:{first.address},{second.address},{loading.address}", timeout=10) as client:
            for _ in range(10):  # connections come up one after the other
                client.score(["ACGT"])
            before = len(first.scheduler.jobs), len(second.scheduler.jobs)
            for _ in range(100):
                client.score(["ACGT"])
        shares = len(first.scheduler.jobs) - before[0], len(second.scheduler.jobs) - before[1]
    assert sum(shares) == 100
    assert min(shares) >= 40


def test_a_taken_port_is_refused_at_the_start(server):
    with pytest.raises(ListenError, match="the port is taken"), RunningServer(bind=server.address):
        pass


def test_a_foreign_address_is_refused_at_the_start():
    server = RunningServer(bind="203.0.113.7:0", security=Security(allow_plaintext=True))
    with (
        pytest.raises(ListenError, match=r"cannot listen on 203\.0\.113\.7:0: Cannot assign requested address"),
        server,
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"drain_seconds": -1}, "drain_seconds is -1"),
        ({"metrics_port": 65536}, "accepted: 0 to 65535"),
        ({"max_connection_age": 0.5}, "max_connection_age is 0.5"),
        ({"bind": "127.0.0.1:port"}, "accepted: HOST:PORT"),
        ({"watchdog_seconds": 0}, "watchdog_seconds is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(SettingsError, match=said):
        ServerSettings(**settings)


def test_reflection_describes_the_service_and_can_be_turned_off(server):
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE_NAME in list(database.get_services())
        described = database.FindFileContainingSymbol(SERVICE_NAME)
        assert described.name == "subquad/genomics/v1/service.proto"
    with RunningServer(reflection=False) as silent, grpc.insecure_channel(silent.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            list(database.get_services())
