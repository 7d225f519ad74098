"""Tests of the offline calls."""

import dataclasses
import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from packages.inference.tests.conftest import tiny_network, unmixed_network
from subquad.inference import ByteTokenizer, Engine, GenerationOptions, memory
from subquad.inference.continuous_batch import ContinuousBatch
from subquad.inference.decode_program import DecodeProgram
from subquad.inference.errors import (
    InsufficientMemory,
    InvalidOption,
    InvalidSequence,
    NonFiniteLogits,
    RequestTooLarge,
    UnencodableCharacter,
)
from subquad.inference.network import wide_logits
from subquad.modules import StripedHyena2
from tools.testing.oracle import assert_as_exact_as, assert_close

PROMPTS = ["A", "ACGTACGTTTACG" * 3, "ACG", "|d__Bacteria;p__None|ACGACG", "T" * 16, "G" * 17, "AC", "TTAGGG" * 9]
OPTIONS = GenerationOptions(max_new_tokens=20, return_logprobs=True)
SAMPLED = GenerationOptions(max_new_tokens=20, temperature=1.1, top_k=40, top_p=0.95, seed=17, return_logprobs=True)


@pytest.mark.parametrize("options", [OPTIONS, SAMPLED], ids=["greedy", "sampled"])
def test_prompts_of_any_lengths_give_in_a_batch_bitwise_what_each_gives_alone(engine, options):
    together = engine.generate(PROMPTS, options)
    for prompt, result in zip(PROMPTS, together, strict=True):
        assert engine.generate([prompt], options) == [result]
    assert engine.generate(PROMPTS[::-1], options) == together[::-1]


def test_thirty_two_prompts_of_as_many_lengths_run_together_as_each_runs_alone(network):
    engine = Engine(network, ByteTokenizer(), max_running=32, prefill_chunk=64, max_sequence_tokens=512)
    text = "ACGTTGCAACGTAGGCTTACGATTACA" * 10
    prompts = [text[7 * i % 27 :][: 1 + 7 * i] for i in range(32)]
    assert len({len(prompt) for prompt in prompts}) == 32
    options = GenerationOptions(max_new_tokens=12, return_logprobs=True)
    together = engine.generate(prompts, options)
    assert [engine.generate([prompt], options)[0] for prompt in prompts] == together


def test_greedy_tokens_are_the_argmax_of_the_full_forward(exact_engine):
    engine = exact_engine
    for prompt, result in zip(PROMPTS, engine.generate(PROMPTS, OPTIONS), strict=True):
        ids = engine.tokenizer.encode(prompt) + result.ids
        logprobs = torch.log_softmax(engine.forward(torch.tensor([ids])).double(), -1)[0]
        scored = logprobs[len(prompt) - 1 : -1]
        assert scored.argmax(-1).tolist() == result.ids
        expected = scored.gather(-1, torch.tensor(result.ids)[:, None])[:, 0]
        assert_close(torch.tensor(result.logprobs), expected, 1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_size_of_prefill_chunks_changes_rounding_only(exact_engine, chunk):
    other = Engine(exact_engine.model, ByteTokenizer(), max_running=4, prefill_chunk=chunk)
    for a, b in zip(exact_engine.generate(PROMPTS, OPTIONS), other.generate(PROMPTS, OPTIONS), strict=True):
        assert a.ids == b.ids
        assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), 1e-6)


def test_streamed_tokens_are_those_of_generate(engine):
    for prompt, options in itertools.product(PROMPTS[:4], (OPTIONS, SAMPLED)):
        expected = engine.generate([prompt], options)[0]
        events = list(engine.stream(prompt, options))
        assert [i for event in events for i in event.ids] == expected.ids
        assert [p for event in events for p in event.logprobs] == expected.logprobs
        assert "".join(event.text for event in events) == expected.text
        assert [event.first_index for event in events[:-1]] == list(range(len(expected.ids)))
        assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + [expected.finish_reason]


def test_a_stream_whose_first_token_may_begin_a_stop_text_goes_on(engine):
    seeds = (GenerationOptions(max_new_tokens=6, temperature=1.0, seed=seed) for seed in range(100))
    first = next(o for o in seeds if chr(engine.generate(["ACG"], o)[0].ids[0]).isascii())
    free = engine.generate(["ACG"], first)[0]
    options = dataclasses.replace(first, stop=(chr(free.ids[0]) + "never there",))
    stream, events = engine.stream("ACG", options), []
    reader = threading.Thread(target=lambda: events.extend(stream), daemon=True)
    reader.start()
    reader.join(timeout=20)
    assert [i for event in events for i in event.ids] == free.ids


def test_calls_of_several_threads_give_what_each_gives_alone(network):
    engine = Engine(network, ByteTokenizer(), max_running=2, prefill_chunk=16, max_sequence_tokens=512)
    texts = ["ACGT" * 5, "TTGACCA" * 4]

    def call(text):
        generated = engine.generate([text], SAMPLED)
        vectors = engine.embed([text], ["blocks.3", "blocks.0"], pooling="none")[0]
        return generated, engine.score([text]), {name: values.tolist() for name, values in vectors.items()}

    expected = {text: call(text) for text in texts}
    with ThreadPoolExecutor(4) as threads:
        for text, found in zip(texts * 10, threads.map(call, texts * 10), strict=True):
            assert found == expected[text]


def test_an_embedding_takes_nothing_that_another_thread_runs(fresh_network):
    engine, inside, others = Engine(fresh_network, ByteTokenizer()), [], []

    def run_another(*_):
        if not inside:
            inside.append(True)
            other = threading.Thread(target=lambda: others.append(engine.embed(["TTTT"], ["blocks.0"])))
            other.start()
            other.join()

    expected = engine.embed(["ACGT"], ["blocks.0"])[0]["blocks.0"]
    fresh_network.blocks[1].register_forward_pre_hook(run_another)
    found = engine.embed(["ACGT"], ["blocks.0", "blocks.1"])[0]["blocks.0"]
    assert len(others) == 1
    assert torch.equal(found, expected)


def test_settings_that_change_between_calls_are_seen(network):
    engine = Engine(network, ByteTokenizer(), max_running=1, prefill_chunk=16)
    engine.generate(["ACGT"])
    for name, value in (("max_running", 3), ("prefill_chunk", 8), ("prefill_rows", 2), ("max_sequence_tokens", 64)):
        kept = engine._idle_batch
        setattr(engine, name, value)
        engine.generate(["ACGT"])
        assert engine._idle_batch is not kept


def test_what_does_not_fit_into_memory_is_refused_before_any_work_with_both_numbers(network, monkeypatch):
    engine = Engine(network, ByteTokenizer(), max_running=2, prefill_chunk=16)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 5 << 20)
    monkeypatch.setattr(ContinuousBatch, "step", lambda *_, **__: pytest.fail("some work was done"))
    options = GenerationOptions(max_new_tokens=1_000_000)
    needed = r"1000004 tokens need 976\.\d\d MiB for their state, 5\.00 MiB are free on cpu"
    with pytest.raises(InsufficientMemory, match=f"the longest prompt: {needed}"):
        engine.generate(["ACGT"], options)
    with pytest.raises(InsufficientMemory, match=f"the longest prompt: {needed}"):
        next(engine.stream("ACGT", options))
    with pytest.raises(InsufficientMemory, match="the longest sequence: 40000 tokens need"):
        engine.embed(["A" * 40_000, "AC"], ["blocks.0"])
    with pytest.raises(InsufficientMemory, match="the longest sequence: 39999 tokens need"):
        engine.score(["AC", "A" * 40_000])


def test_a_stream_gives_its_first_token_before_the_last_is_computed(engine, monkeypatch):
    steps, launch = [], DecodeProgram.launch
    monkeypatch.setattr(DecodeProgram, "launch", lambda self, slots: steps.append(slots) or launch(self, slots))
    stream = engine.stream("ACGT", GenerationOptions(max_new_tokens=40))
    assert len(next(stream).ids) == 1
    assert steps == []
    assert sum(len(event.ids) for event in stream) == 39
    assert len(steps) == 39


def test_the_same_seed_repeats_and_another_differs(engine):
    assert engine.generate(["ACGT"], SAMPLED) == engine.generate(["ACGT"], SAMPLED)
    other = GenerationOptions(max_new_tokens=20, temperature=1.1, seed=18)
    assert engine.generate(["ACGT"], other)[0].ids != engine.generate(["ACGT"], SAMPLED)[0].ids


def test_a_drawn_seed_is_reported_and_repeats_the_result(engine):
    first = engine.generate(["ACGT"], GenerationOptions(max_new_tokens=10, temperature=1.0))[0]
    again = engine.generate(["ACGT"], GenerationOptions(max_new_tokens=10, temperature=1.0, seed=first.seed))[0]
    assert again == first


def test_going_on_from_a_prefix_draws_the_same_tokens(engine):
    whole = engine.generate(["ACGTAC"], SAMPLED)[0]
    prefix = engine.tokenizer.encode("ACGTAC") + whole.ids[:5]
    rest = engine.generate(
        [prefix], GenerationOptions(max_new_tokens=15, temperature=1.1, top_k=40, top_p=0.95, seed=17)
    )
    assert rest[0].ids == whole.ids[5:]


def test_each_finish_reason_is_reported(network, engine):
    tokenizer = engine.tokenizer
    free = engine.generate(["ACGTACGTTTACG" * 3], OPTIONS)[0]
    assert free.finish_reason == "max_new_tokens"
    assert len(free.ids) == 20
    short = Engine(
        network, tokenizer, max_running=4, prefill_chunk=16, max_sequence_tokens=len("ACGTACGTTTACG" * 3) + 3
    )
    clipped = short.generate(["ACGTACGTTTACG" * 3], OPTIONS)[0]
    assert (clipped.finish_reason, clipped.ids) == ("context_length", free.ids[:3])
    ended = [
        g
        for g in engine.generate(PROMPTS, GenerationOptions(max_new_tokens=200))
        if g.finish_reason == "end_of_document"
    ]
    assert ended
    assert all(tokenizer.eod_id not in g.ids for g in ended)


def test_a_stop_text_that_spans_tokens_ends_generation_before_it(engine):
    free = engine.generate(["ACG"], GenerationOptions(max_new_tokens=60, temperature=1.0, seed=4))[0]
    printable = next(
        i for i in range(1, 50) if free.text[i : i + 2].isascii() and free.text.count(free.text[i : i + 2])
    )
    stop = free.text[printable : printable + 2]
    options = GenerationOptions(max_new_tokens=60, temperature=1.0, seed=4, stop=("never there", stop))
    stopped = engine.generate(["ACG"], options)[0]
    assert (stopped.finish_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert stopped.ids == free.ids[: free.text.index(stop)]
    assert "".join(event.text for event in engine.stream("ACG", options)) == stopped.text


def test_results_come_one_by_one_in_order(engine):
    assert list(engine.generate_each(PROMPTS * 2, OPTIONS)) == engine.generate(PROMPTS, OPTIONS) * 2
    with pytest.raises(InvalidSequence, match="tail is empty"):
        engine.generate_each(["ACG", ""], OPTIONS, names=["head", "tail"])


def test_forward_returns_float32_logits_of_every_position(engine):
    logits = engine.forward(torch.tensor([[65, 67], [71, 84]]))
    assert logits.shape == (2, 2, 512)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("prepend_eod", [False, True])
@pytest.mark.parametrize("chunk", [1, 16, 2048])
def test_scores_are_sums_over_the_full_forward(network, prepend_eod, chunk):
    engine = Engine(network, ByteTokenizer(), prefill_chunk=chunk)
    for text in ("AC", "ACGTTTACG" * 7):
        ids = [0] * prepend_eod + engine.tokenizer.encode(text)
        logprobs = torch.log_softmax(engine.forward(torch.tensor([ids])).double(), -1)[0]
        expected = logprobs[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert engine.score([text], prepend_eod=prepend_eod)[0] == pytest.approx(float(expected.sum()), rel=1e-6)
        assert engine.score([text], prepend_eod=prepend_eod, reduce="mean")[0] == pytest.approx(
            float(expected.mean()), rel=1e-6
        )
        values = engine.score([text], prepend_eod=prepend_eod, reduce="none")[0]
        assert_close(torch.tensor(values), expected, 5e-6)


def test_scores_of_mixed_lengths_equal_those_of_each_alone(engine, exact_engine):
    texts = ["ACGT", "ACGTTTACG" * 7, "GG", "ACGTTTACG" * 3]
    alone = [engine.score([text])[0] for text in texts]
    assert engine.score(texts) == alone
    assert engine.score(texts[::-1]) == alone[::-1]
    assert exact_engine.score(texts, batch_size=3) == pytest.approx(exact_engine.score(texts), rel=1e-6)
    assert engine.score(texts, batch_size=3) == pytest.approx(alone, rel=1e-5)


def test_both_strands_average_with_the_reverse_complement(engine):
    forward, backward = "AACGTTNacg", "cgtNAACGTT"
    average = sum(engine.score([forward, backward])) / 2
    assert engine.score([forward, backward], strand="both") == pytest.approx([average, average], rel=1e-12)
    values = engine.score([forward], strand="both", reduce="none", prepend_eod=True)[0]
    mirrored = engine.score([backward], strand="both", reduce="none", prepend_eod=True)[0]
    assert values == pytest.approx(mirrored[::-1], rel=1e-12)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda e: e.generate([""]), InvalidSequence, r"prompts\[0\] is empty"),
        (lambda e: e.generate(["A", "Aé"]), UnencodableCharacter, r"prompts\[1\] has the character 'é'"),
        (lambda e: e.generate("ACGT"), InvalidOption, "prompts is 'ACGT'; accepted: a list"),
        (lambda e: e.generate([[65, 512]]), InvalidSequence, r"prompts\[0\] has 512 at position 1"),
        (lambda e: e.generate([[65, -1]]), InvalidSequence, r"prompts\[0\] has -1 at position 1"),
        (lambda e: e.generate(["A" * 512]), RequestTooLarge, "512 tokens; at most 511"),
        (lambda e: e.generate(["A"], GenerationOptions(top_k=513)), InvalidOption, "top_k is 513"),
        (lambda e: e.stream("", None), InvalidSequence, "prompt is empty"),
        (lambda e: e.score([""]), InvalidSequence, r"sequences\[0\] is empty"),
        (lambda e: e.score(["AC", "A"]), InvalidSequence, r"sequences\[1\] has 1 token"),
        (lambda e: e.score(["A" * 513]), RequestTooLarge, "513 tokens; at most 512"),
        (lambda e: e.score(["A" * 512], prepend_eod=True), RequestTooLarge, "512 tokens; at most 511"),
        (lambda e: e.score(["ACXG"], strand="both"), InvalidSequence, "'X' at position 2, which has no complement"),
        (lambda e: e.score(["ACG"], strand="reverse"), InvalidOption, "strand is 'reverse'"),
        (lambda e: e.score(["ACG"], strand="both", reduce="none"), InvalidOption, "set prepend_eod"),
        (lambda e: e.score(["ACG"], reduce="max"), InvalidOption, "reduce is 'max'"),
        (lambda e: e.score(["ACG"], batch_size=0), InvalidOption, "batch_size is 0"),
        (lambda e: e.score(["ACG"], batch_size=1.5), InvalidOption, "batch_size is 1.5; accepted: an integer"),
        (lambda e: e.embed(["ACG"], ["blocks.0"], batch_size=0), InvalidOption, "batch_size is 0"),
        (lambda e: e.embed(["ACG"], [0]), InvalidOption, "layer is 0; accepted: blocks.0"),
        (lambda e: e.embed(["ACG"], ["blocks." + "9" * 5000]), InvalidOption, "layer is 'blocks.9"),
        (lambda e: e.embed(["ACG"], ["blocks.٣"]), InvalidOption, "layer is 'blocks.٣'"),
        (lambda e: e.generate(b"ACGT"), InvalidOption, "prompts is b'ACGT'; accepted: a list"),
        (lambda e: e.generate([[True, 65]]), InvalidSequence, r"prompts\[0\] has True at position 0"),
        (lambda e: e.generate([["A", 65]]), InvalidSequence, r"prompts\[0\] has 'A' at position 0"),
        (lambda e: e.generate(["A", None]), InvalidSequence, r"prompts\[1\] is a NoneType; accepted: a text or a list"),
        (lambda e: e.score([5]), InvalidSequence, r"sequences\[0\] is a int; accepted: a text or a list of ids"),
        (lambda e: e.forward(torch.tensor([65])), InvalidSequence, r"the shape \[1\]"),
        (lambda e: e.forward(torch.tensor([[600]])), InvalidSequence, "holds 600; accepted: 0 to 511"),
        (lambda e: e.forward(torch.full((1, 513), 65)), RequestTooLarge, "513 tokens; at most 512"),
    ],
)
def test_bad_input_is_one_clear_error_before_any_work(engine, call, error, text):
    with pytest.raises(error, match=text):
        call(engine)


def test_ids_are_looked_at_once_and_those_of_texts_never(engine, monkeypatch):
    looked_at = []
    for module in ("engine", "checks"):
        monkeypatch.setattr(f"subquad.inference.{module}.check_ids", lambda ids, *_, **__: looked_at.append(list(ids)))
    for call in (engine.generate, engine.score, lambda texts: engine.embed(texts, ["blocks.0"])):
        call(["ACGT", "GATTACA"])
    assert looked_at == []
    engine.generate([[65, 67]])
    engine.score([[65, 67, 71]])
    assert looked_at == [[65, 67], [65, 67, 71]]


def test_an_empty_list_gives_an_empty_list(engine):
    assert engine.generate([]) == []
    assert engine.score([]) == []


def test_logits_that_are_not_finite_are_an_error_and_never_sampled(fresh_network):
    fresh_network.get_parameter("norm.scale").data.fill_(math.nan)
    engine = Engine(fresh_network, ByteTokenizer(), max_running=2)
    for call in (
        lambda: engine.forward(torch.tensor([[65]])),
        lambda: engine.generate(["ACG"]),
        lambda: list(engine.stream("ACG")),
        lambda: engine.score(["ACG"]),
    ):
        with pytest.raises(NonFiniteLogits, match="not finite"):
            call()


def test_the_engine_describes_itself(engine):
    assert engine.layer_names == tuple(f"blocks.{i}" for i in range(8))
    assert engine.dtype == torch.float32
    assert engine.device.type == "cpu"
    assert engine.max_sequence_tokens == 512
    assert engine.weights_sha256 is None


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, 1 << 64])
@pytest.mark.parametrize("field", ["max_running", "prefill_chunk", "prefill_rows", "max_sequence_tokens"])
def test_a_setting_of_the_engine_that_is_no_size_is_refused(network, field, value):
    with pytest.raises(InvalidOption, match=f"{field} is {value!r}; accepted: an integer"):
        Engine(network, ByteTokenizer(), **{field: value})


def test_scores_of_a_bfloat16_network_add_logits_that_are_not_rounded_once_more() -> None:
    network = tiny_network(dtype=torch.bfloat16)
    engine = Engine(network, ByteTokenizer(), prefill_chunk=16)
    text = "ACGTTGCAACGTAGGCTTACGATTACA"
    ids = torch.tensor([list(text.encode())])
    with torch.inference_mode():
        hidden = torch.cat(list(engine_chunks(network, ids, 16)), dim=1)
        logits = hidden.double() @ network.embedding_layer.weight.double().t()
    expected = logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
    (found,) = engine.score([text], reduce="none")
    assert_as_exact_as("score", expected, expected.float(), torch.tensor(found))
    assert_as_exact_as("logits", logits[:, :16], logits[:, :16].float(), engine.forward(ids[:, :16]))


def engine_chunks(network: StripedHyena2, ids: torch.Tensor, chunk: int) -> Iterator[torch.Tensor]:
    """Yields the hidden states that an engine makes of a sequence."""
    state = network.init_state(1, max_length=ids.shape[1])
    for start in range(0, ids.shape[1], chunk):
        yield network.encode(ids[:, start : start + chunk], state, starts=[start])


class Narrow:
    """A network of which nothing but rounded logits can be had."""

    def __init__(self, network: StripedHyena2) -> None:
        self._network = network

    def __getattr__(self, name: str) -> object:
        if name == "unembed_wide":
            raise AttributeError(name)
        return getattr(self._network, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_of_a_network_that_rounds_them_are_made_wide(dtype: torch.dtype) -> None:
    network = tiny_network(dtype=dtype)
    with torch.inference_mode():
        hidden = network.encode(torch.tensor([list(b"ACGTTG")]))
        found = wide_logits(Narrow(network), hidden)  # type: ignore[arg-type]
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(found, network.unembed(hidden).to(found.dtype))


@pytest.mark.parametrize("prefill_rows", [1, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_16_bit_network_draws_from_the_logits_that_it_scores_with(dtype, temperature, prefill_rows) -> None:
    network = unmixed_network(dtype)
    engine = Engine(network, ByteTokenizer(), prefill_chunk=16, prefill_rows=prefill_rows, max_running=4)
    options = GenerationOptions(max_new_tokens=30, temperature=temperature, seed=5, return_logprobs=True)
    prompts = ["ACGT", "TTAGGGTTAGGGTTAGGGC", "G"]
    for prompt, result in zip(prompts, engine.generate(prompts, options), strict=True):
        ids = [*prompt.encode(), *result.ids]
        (scored,) = engine.score([ids], reduce="none")
        assert result.logprobs == pytest.approx(scored[len(prompt) - 1 :], abs=1e-5)
        with torch.no_grad():
            hidden = network.encode(torch.tensor([ids])).double()
        best = (hidden @ network.embedding_layer.weight.double().t()).argmax(-1)[0]
        assert temperature or result.ids == best[len(prompt) - 1 : -1].tolist()
