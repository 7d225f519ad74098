"""EmbedSequences over the real engine: what arrives is what the engine computes, whatever else runs."""

import pytest
import torch

from packages.server.tests.running_server import RunningServer
from packages.server.tests.tiny_engine import tiny_engine, tiny_scheduler
from subquad.server import InvalidRequest, ServingLimits
from tools.testing.oracle import assert_close

SEQUENCES = ["ACGTTGCA" * 20, "GATTACA", "A"]
LAYERS = ["blocks.1", "blocks.0"]


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


@pytest.fixture(scope="module")
def server(engine):
    limits = ServingLimits(max_running_requests=4)
    with RunningServer(tiny_scheduler(engine, max_running=4, prefill_chunk=32), engine, limits=limits) as running:
        yield running


def gathered(parts):
    """Joins the parts of a stream by sequence and layer."""
    found, ended = {}, set()
    for part in parts:
        key = (part.sequence_index, part.layer)
        assert key not in ended, "nothing follows the last part"
        values = torch.tensor(part.numbers()).reshape(part.shape)
        before = found.get(key)
        assert part.first_position == (0 if before is None else before.shape[0])
        found[key] = values if before is None else torch.cat([before, values])
        if part.last:
            ended.add(key)
    assert ended == set(found)
    return found


@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
def test_each_layer_of_each_sequence_is_what_the_engine_gives(engine, client, pooling):
    found = gathered(client.embed(SEQUENCES, LAYERS, pooling=pooling))
    assert list(found) == [(i, layer) for i in range(3) for layer in LAYERS]
    expected = engine.embed(SEQUENCES, LAYERS, pooling=pooling)
    for (index, layer), values in found.items():
        assert_close(values, expected[index][layer], relative=5e-6)


@pytest.mark.parametrize(("data_type", "torch_type"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_narrow_types_are_rounded_once(engine, client, data_type, torch_type):
    exact = gathered(client.embed(SEQUENCES[:2], LAYERS, pooling="none"))
    narrow = gathered(client.embed(SEQUENCES[:2], LAYERS, pooling="none", data_type=data_type))
    for key, values in exact.items():
        assert torch.equal(narrow[key], values.to(torch_type).float())


def test_a_long_sequence_comes_in_several_messages(client, monkeypatch):
    monkeypatch.setattr("subquad.server.embedding.RESPONSE_CHUNK_BYTES", 50 * 64 * 4)
    parts = list(client.embed(SEQUENCES[:1], LAYERS[:1], pooling="none"))
    assert [part.shape for part in parts] == [(50, 64), (50, 64), (50, 64), (10, 64)]
    assert [part.last for part in parts] == [False, False, False, True]


def test_a_generation_beside_it_changes_nothing(client):
    alone = gathered(client.embed(SEQUENCES, LAYERS, pooling="none"))
    plain = client.generate("ACGTACGT", max_new_tokens=40, ignore_end_of_document=True).result()
    stream = client.generate("ACGTACGT", max_new_tokens=40, ignore_end_of_document=True, tokens_per_message=1)
    next(stream)
    beside = gathered(client.embed(SEQUENCES, LAYERS, pooling="none"))
    assert stream.result()[0].ids[-10:] == plain[0].ids[-10:]
    for key, values in alone.items():
        assert torch.equal(beside[key], values)


def test_a_layer_that_is_not_listed_is_refused(client):
    with pytest.raises(InvalidRequest, match=r"layers\[0\]"):
        list(client.embed(["ACGT"], ["norm"]))
