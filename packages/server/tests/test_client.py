"""The client: what it imports, how its streams end, and what it returns."""

import gc
import subprocess
import sys
import time

import pytest

from packages.server.tests.fake_engine import FakeScheduler
from packages.server.tests.running_server import RunningServer, wait_until
from subquad.server import GenomicsClient, RequestCancelled, Unavailable, Variant


@pytest.mark.parametrize("module", ["subquad.server", "subquad.server.client", "subquad.server.commands"])
def test_importing_it_loads_neither_torch_nor_the_engine(module):
    check = (
        f"import sys, {module}, subquad.server; subquad.server.GenomicsClient; subquad.server.ServingLimits();"
        "print([name for name in ('torch', 'subquad.inference', 'prometheus_client') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=50, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_commands_are_listed_without_loading_grpc():
    check = "import sys, subquad.server.commands; print('grpc' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=50, check=True)
    assert ran.stdout.strip() == "False"


def test_the_model_is_described_with_its_limits(server, client):
    model = client.get_model()
    assert (model.name, model.vocab_size, model.hidden_size, model.compute_type) == ("tiny", 512, 8, "float32")
    assert model.layers == ("blocks.0", "blocks.1")
    assert (model.alphabet, model.batch_invariant) == ("ACGTN", True)
    assert model.weights_sha256 == "ab" * 32
    assert model.limits.max_sequence_tokens == server.scheduler.max_sequence_tokens
    assert model.server_version


def test_scores_come_in_request_order_with_log_probabilities_where_asked_for(client):
    scores = client.score(["ACGT", "AC", "GGGGG"], prepend_eod=True, return_logprobs=True)
    assert [score.scored_tokens for score in scores] == [4, 2, 5]
    assert [len(score.logprobs) for score in scores] == [4, 2, 5]
    assert scores[1].log_likelihood == -float(sum(b"AC"))
    assert client.score(["ACGT"])[0].logprobs == ()


def test_both_strands_and_the_start_token_are_asked_of_the_engine(server, client):
    client.score(["acgn"], strand="both", prepend_eod=True, return_logprobs=True)
    job = server.scheduler.jobs[-1]
    assert (job.strand, job.prepend_eod, job.return_logprobs) == ("both", True, True)
    assert bytes(job.sequences[0]) == b"ACGN"


def test_each_variant_is_the_difference_of_two_scores(client):
    window = "ACGTACGT"
    changes = [Variant(0, "A", "G", "rs1"), Variant(4, "ACG", "", "deletion"), Variant(8, "", "TT", "insertion")]
    scored = list(client.score_variants(window, changes))
    assert [score.id for score in scored] == ["rs1", "deletion", "insertion"]
    assert [score.index for score in scored] == [0, 1, 2]
    windows = ["GCGTACGT", "ACGTT", "ACGTACGTTT"]
    reference, *alternates = (score.log_likelihood for score in client.score([window, *windows]))
    for score, alternate in zip(scored, alternates, strict=True):
        assert score.reference_log_likelihood == reference
        assert score.alternate_log_likelihood == alternate
        assert score.delta_log_likelihood == alternate - reference


def running(server):
    return server.scheduler.stats().running


def test_leaving_the_client_cancels_its_open_streams():
    with RunningServer(FakeScheduler(step_seconds=0.02)) as server:
        with server.client() as client:
            streams = [client.generate("ACGT", max_new_tokens=4000) for _ in range(3)]
            for stream in streams:
                next(stream)
            assert running(server) == 3
        wait_until(lambda: running(server) == 0)
        with pytest.raises(RequestCancelled):
            next(streams[0])


def test_leaving_or_dropping_a_stream_cancels_it():
    with RunningServer(FakeScheduler(step_seconds=0.02)) as server, server.client() as client:
        with client.generate("ACGT", max_new_tokens=4000) as stream:
            next(stream)
        wait_until(lambda: running(server) == 0)
        for _ in client.generate("ACGT", max_new_tokens=4000):
            break
        gc.collect()
        wait_until(lambda: running(server) == 0)


def test_a_finished_stream_stays_finished(client):
    stream = client.generate("ACGT", max_new_tokens=2)
    assert len(stream.result()[0].ids) == 2
    assert list(stream) == []
    stream.close()


def test_samples_are_put_together_in_order(client):
    samples = client.generate("ACGT", max_new_tokens=30, num_samples=3, tokens_per_message=4).result()
    assert len(samples) == 3
    assert len({sample.text for sample in samples}) == 3
    assert all(sample.text.encode() == bytes(sample.ids) for sample in samples)
    assert all(sample.finish_reason == "max_new_tokens" for sample in samples)


def test_the_text_can_be_read_piece_by_piece(client):
    pieces = list(client.generate("ACGT", max_new_tokens=20).text_pieces())
    assert "".join(pieces) == client.generate("ACGT", max_new_tokens=20).result()[0].text


def test_nobody_at_the_address_is_unavailable_soon():
    with GenomicsClient("127.0.0.1:1", timeout=20) as client:
        start = time.monotonic()
        assert not client.is_serving(timeout=1)
        with pytest.raises(Unavailable):
            client.get_model()
        assert time.monotonic() - start < 10


def test_a_waiting_client_is_served_once_the_server_is_ready():
    with RunningServer(serve=False) as server, server.client(wait_for_ready=True, timeout=10) as client:
        stream = client.generate("ACGT", max_new_tokens=2)
        time.sleep(0.2)
        server.run(server.server.serve(server.served))
        assert len(stream.result()[0].ids) == 2
