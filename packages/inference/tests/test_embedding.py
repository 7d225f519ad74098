"""Tests of Engine.embed."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.hooks import RemovableHandle

from packages.inference.tests.conftest import tiny_network
from subquad.inference import ByteTokenizer, Engine
from subquad.inference.errors import InvalidOption, InvalidSequence, NonFiniteActivations, RequestTooLarge
from tools.testing.oracle import assert_close

SEQUENCES = ["ACGTTGCAACGT" * 5, "GATTACA", "C" * 33]
LAYERS = ("blocks.2", "blocks.3", "blocks.5.mlp.l3", "blocks.-1")


def block_output(network, text, name):
    """What a layer gives in a plain forward of the whole network."""
    kept = []
    handle = network.get_submodule(name).register_forward_hook(lambda _m, _i, y: kept.append(y))
    with torch.inference_mode():
        network(torch.tensor([list(text.encode())]))
    handle.remove()
    return kept[0][0]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_position_equals_the_layer_in_a_plain_forward(engine, network, batch_size):
    found = engine.embed(SEQUENCES, LAYERS, pooling="none", batch_size=batch_size)
    for text, values in zip(SEQUENCES, found, strict=True):
        assert set(values) == set(LAYERS)
        for name in LAYERS:
            expected = block_output(network, text, name.replace("-1", "7"))
            assert values[name].dtype == torch.float32
            assert_close(values[name], expected, relative=5e-6)


@pytest.mark.parametrize("prepend_eod", [False, True])
def test_pooling_is_over_the_tokens_alone(engine, prepend_eod):
    whole = engine.embed(SEQUENCES, ["blocks.4"], pooling="none", prepend_eod=prepend_eod)
    reduced = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0), "last": lambda x: x[-1]}
    for pooling, function in reduced.items():
        found = engine.embed(SEQUENCES, ["blocks.4"], pooling=pooling, prepend_eod=prepend_eod, batch_size=2)
        for text, values, positions in zip(SEQUENCES, found, whole, strict=True):
            assert positions["blocks.4"].shape == (len(text), 64)
            assert_close(values["blocks.4"], function(positions["blocks.4"]), relative=5e-6)


def test_the_prepended_token_is_read(engine):
    plain = engine.embed(["ACGT"], ["blocks.2"])
    after = engine.embed(["ACGT"], ["blocks.2"], prepend_eod=True)
    assert not torch.allclose(plain[0]["blocks.2"], after[0]["blocks.2"])


def test_blocks_after_the_last_wanted_one_are_not_run(engine, network):
    ran = []
    handles = [
        block.register_forward_hook(lambda _m, _i, _y, i=i: ran.append(i)) for i, block in enumerate(network.blocks)
    ]
    engine.embed(["ACGT"], ["blocks.2", "blocks.1"])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((["ACGT"], ["blocks.8"]), InvalidOption, "layer is 'blocks.8'; accepted: blocks.0 to blocks.7"),
        ((["ACGT"], ["norm"]), InvalidOption, "blocks.-1 to blocks.-8"),
        ((["ACGT"], []), InvalidOption, "one or more layer names"),
        ((["ACGT", ""], ["blocks.0"]), InvalidSequence, r"sequences\[1\] is empty"),
        ((["A" * 600], ["blocks.0"]), RequestTooLarge, "600 tokens; at most 512"),
        ((["ACGT"], ["blocks.0.filter"]), InvalidOption, "a layer with one output vector for each position"),
    ],
)
def test_bad_input_is_refused(engine, arguments, error, text):
    with pytest.raises(error, match=text):
        engine.embed(*arguments)


def test_an_unknown_pooling_is_refused(engine, unchecked_types):
    with pytest.raises(InvalidOption, match="pooling is 'median'; accepted: 'mean', 'last', 'max', 'none'"):
        engine.embed(["ACGT"], ["blocks.0"], pooling="median")


def test_activations_that_are_not_finite_are_an_error():
    network = tiny_network()
    with torch.no_grad():
        network.blocks[1].mlp.l1.weight.fill_(float("nan"))
    engine = Engine(network, ByteTokenizer())
    with pytest.raises(NonFiniteActivations, match=r"the activations of blocks\.1 are not finite"):
        engine.embed(["ACGT"], ["blocks.1"])
    assert torch.isfinite(engine.embed(["ACGT"], ["blocks.0"])[0]["blocks.0"]).all()


def test_threads_that_embed_at_once_take_no_layer_from_each_other(engine, monkeypatch):
    made = RemovableHandle.__init__

    def slowly(handle, *arguments, **options):
        number = RemovableHandle.next_id
        time.sleep(0.002)  # where another thread may come in
        RemovableHandle.next_id = number
        made(handle, *arguments, **options)

    monkeypatch.setattr(RemovableHandle, "__init__", slowly)
    expected = engine.embed(["ACGT"], LAYERS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: engine.embed(["ACGT"], LAYERS), range(8)):
            assert all(torch.equal(found[0][layer], expected[0][layer]) for layer in LAYERS)
