"""The metrics say what the client saw."""

import urllib.request

import pytest

from packages.server.tests.fake_engine import FakeScheduler
from packages.server.tests.running_server import RunningServer, wait_until
from subquad.inference.errors import NonFiniteLogits
from subquad.server import InternalError, InvalidRequest, ListenError


def scrape(server):
    """{name with labels: value} of the metrics page."""
    port = server.server.metrics_listener.port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_counts_equal_what_the_client_saw():
    with RunningServer(FakeScheduler(step_seconds=0.002), metrics_port=0) as server, server.client() as client:
        before = scrape(server)
        for _ in range(3):
            client.generate("ACGT", max_new_tokens=20, num_samples=2).result()
        scores = client.score(["ACGT", "ACG"])
        for _ in range(2):
            with pytest.raises(InvalidRequest):
                client.score([])
        seen = scrape(server)
    assert seen['subquad_requests_total{code="OK",method="GenerateSequence"}'] == 3
    assert seen['subquad_requests_total{code="OK",method="ScoreSequences"}'] == 1
    assert seen['subquad_requests_total{code="INVALID_ARGUMENT",method="ScoreSequences"}'] == 2
    assert seen["subquad_generated_tokens_total"] - before["subquad_generated_tokens_total"] == 120
    assert seen["subquad_prompt_tokens_total"] - before["subquad_prompt_tokens_total"] == 12
    assert seen["subquad_scored_tokens_total"] == sum(score.scored_tokens for score in scores)
    assert seen['subquad_samples_finished_total{reason="max_new_tokens"}'] == 6
    assert seen["subquad_time_to_first_token_seconds_count"] == 6
    assert seen["subquad_inter_token_seconds_count"] > 0
    assert seen["subquad_requests_in_flight"] == 0


def test_gauges_of_the_scheduler_are_read_at_the_scrape():
    with RunningServer(FakeScheduler(slots=2, step_seconds=0.02), metrics_port=0) as server, server.client() as client:
        running = [client.generate("ACGT", max_new_tokens=4000) for _ in range(2)]
        for stream in running:
            next(stream)
        waiting = client.generate("ACGT", max_new_tokens=4000)
        wait_until(lambda: server.scheduler.stats().queued == 1)
        seen = scrape(server)
        waiting.close()
        assert seen["subquad_scheduler_running"] == 2
        assert seen["subquad_scheduler_slots_free"] == 0
        assert seen["subquad_scheduler_queued"] == 1
        assert seen["subquad_requests_in_flight"] == 3


def test_logits_that_are_not_finite_are_counted():
    scheduler = FakeScheduler(fail_at=2, error=NonFiniteLogits("token 6"))
    with RunningServer(scheduler, metrics_port=0) as server, server.client() as client:
        with pytest.raises(InternalError):
            client.generate("ACGT", max_new_tokens=9).result()
        seen = scrape(server)
    assert seen["subquad_non_finite_logits_total"] == 1
    assert seen['subquad_requests_total{code="INTERNAL",method="GenerateSequence"}'] == 1


def test_the_metrics_listen_on_loopback_alone_and_a_taken_port_is_refused():
    with RunningServer(metrics_port=0) as server:
        listener = server.server.metrics_listener
        assert listener._server.server_address[0] == "127.0.0.1"
        other = RunningServer(metrics_port=listener.port)
        with pytest.raises(ListenError, match=f"metrics port 127.0.0.1:{listener.port}"), other:
            pass
