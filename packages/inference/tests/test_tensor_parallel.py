"""A network that two processes share, against the same network in one."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from packages.inference.tests.commands.running import done, lines, run
from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import Engine, GenerationOptions, Scheduler, SchedulerLimits, save_checkpoint
from subquad.inference.errors import CheckpointConfigError, InvalidOption, WorkerFailed
from subquad.inference.jobs import GenerateJob
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2
from tools.testing.oracle import assert_close

PROMPTS = ["A", "ACGTACGTTTACG" * 3, "ACG", "|d__Bacteria;p__None|ACGACG", "T" * 16, "TTAGGG" * 9]
GREEDY = GenerationOptions(max_new_tokens=12, return_logprobs=True)
SAMPLED = GenerationOptions(max_new_tokens=12, temperature=1.1, top_k=40, top_p=0.95, seed=17, return_logprobs=True)
LOADED = {"device": "cpu", "dtype": "float64", "max_running": 4, "prefill_chunk": 16}


def saved(folder: Path, **changes: int) -> Path:
    """Writes a tiny checkpoint."""
    config = LazyConfig(StripedHyena2)(**{**TINY, **changes})
    network = StripedHyena2(**{**TINY, **changes}) if changes else tiny_network(dtype=torch.float64)
    save_checkpoint(folder / "checkpoint", network, config, metadata={"max_sequence_tokens": 512})
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in float64."""
    return saved(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> Engine:
    """The engine of one process."""
    return Engine.from_checkpoint(checkpoint, **LOADED)


class Pair:
    """Two processes that share the network; a process leads one network at a time."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        """Returns their engine, which is loaded where there is none."""
        if self._engine is None:
            self._engine = Engine.from_checkpoint(self._checkpoint, **LOADED, tensor_parallel=2)
        return self._engine

    def close(self) -> None:
        """Ends them."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None


@pytest.fixture(scope="module")
def pair(checkpoint: Path) -> Iterator[Pair]:
    """The two processes, whoever needs them first."""
    pair = Pair(checkpoint)
    yield pair
    pair.close()


@pytest.fixture
def shared(pair: Pair) -> Engine:
    """The engine of two processes."""
    return pair.engine()


@pytest.fixture
def unshared(pair: Pair) -> None:
    """No other network is led by this process."""
    pair.close()


def test_logits_are_those_of_one_process(alone: Engine, shared: Engine) -> None:
    assert (shared.tensor_parallel, alone.tensor_parallel) == (2, 1)
    ids = torch.randint(65, 90, (3, 150), generator=torch.Generator().manual_seed(1))
    assert_close(shared.network.forward(ids), alone.network.forward(ids), 1e-12)
    states = [engine.network.init_state(3, max_length=160) for engine in (shared, alone)]
    for part in [*ids[:, :140].split([1, 100, 39], dim=1), *ids[:, 140:].split(1, dim=1)]:
        with torch.inference_mode():
            if part.shape[1] == 1:
                got, expected = (e.network.step(part[:, 0], s) for e, s in zip((shared, alone), states, strict=True))
            else:
                got, expected = (e.network.encode(part, s) for e, s in zip((shared, alone), states, strict=True))
        assert_close(got, expected, 1e-12)


def test_prompts_are_read_as_by_one_process(alone: Engine, shared: Engine) -> None:
    ids = torch.randint(65, 90, (3, 140), generator=torch.Generator().manual_seed(2))
    last, short = ([e.network.init_state(3, max_length=160) for e in (shared, alone)] for _ in range(2))
    pools = [e.network.init_state(4, max_length=160, page_count=4) for e in (shared, alone)]
    with torch.inference_mode():
        for start, stop in ((0, 1), (1, 100), (100, 140)):
            part = ids[:, start:stop]
            got, expected = (
                e.model.encode_last(part, s, starts=[start] * 3)  # type: ignore[operator]
                for e, s in zip((shared, alone), last, strict=True)
            )
            assert_close(got, expected, 1e-12)
        lengths = [140, 3, 77]
        for _ in range(2):
            got, expected = (
                e.model.encode_short(ids, s, lengths)  # type: ignore[operator]
                for e, s in zip((shared, alone), short, strict=True)
            )
            assert_close(got, expected, 1e-12)
        for pool, state in zip(pools, short, strict=True):
            for row in range(4):
                pool.hold_pages(row, [row])
            pool.reset(torch.tensor([0, 1, 2, 3]))
            pool.take_rows(state, [3, 1], lengths[:2])  # type: ignore[attr-defined]
            state.reset()  # type: ignore[call-arg]
        active = torch.tensor([False, True, False, True])
        got, expected = (
            e.network.step(torch.tensor([65, 67, 71, 84]), pool, active=active)
            for e, pool in zip((shared, alone), pools, strict=True)
        )
        assert_close(got[active], expected[active], 1e-12)
    assert pools[0].position.tolist() == pools[1].position.tolist() == [0, 4, 0, 141]
    assert short[0].position.tolist() == [0, 0, 0]


def test_the_last_block_sums_the_last_position_of_a_prompt_alone(shared: Engine) -> None:
    traffic = shared.model.part.shards.traffic
    ids = torch.full((1, 50), 65)
    sent = []
    for read in (shared.model.encode, shared.model.encode_last):
        state, before = shared.network.init_state(1, max_length=64), traffic.sent_bytes
        read(ids, state, starts=[0])  # type: ignore[operator]
        sent.append(traffic.sent_bytes - before)
    assert sent[0] == 2 * len(TINY["pattern"]) * 50 * TINY["hidden_size"] * 8
    assert sent[0] - sent[1] == 2 * 49 * TINY["hidden_size"] * 8


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_short_prompts_go_side_by_side(
    alone: Engine, shared: Engine, monkeypatch: pytest.MonkeyPatch, options: GenerationOptions
) -> None:
    calls = []
    monkeypatch.setattr(shared.model, "encode_short", lambda *given: calls.append(given[2]) or read(*given))
    read = type(shared.model).encode_short.__get__(shared.model)
    together, one_by_one = (
        Engine(e.model, e.tokenizer, max_running=6, prefill_rows=4, prefill_chunk=256, max_sequence_tokens=512)
        for e in (shared, alone)
    )
    got, expected = (engine.generate(PROMPTS, options) for engine in (together, one_by_one))
    assert [result.ids for result in got] == [result.ids for result in expected]
    for a, b in zip(got, expected, strict=True):
        assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), 1e-6)
    assert [lengths[:4] for lengths in calls] == [[1, 39, 3, 27], [16, 54, 1, 1]]
    assert together.generate(PROMPTS[2:3], options)[0] == got[2]
    together.free_states()


def test_each_process_holds_half_of_every_layer(alone: Engine, shared: Engine) -> None:
    sizes = {name: p.numel() for name, p in shared.model.named_parameters()}
    whole = {name: p.numel() for name, p in alone.model.named_parameters()}
    assert set(sizes) == set(whole)
    halved = {name for name, size in sizes.items() if 2 * size == whole[name]}
    kept = {name for name in sizes if name not in halved}
    assert all(sizes[name] == whole[name] for name in kept)
    assert all(name.endswith(("scale", "bias", "embedding_layer.weight")) for name in kept)
    meta = torch.device("meta")
    state, full = (e.network.init_state(1, max_length=300, device=meta) for e in (shared, alone))
    assert 2 * state.recurrent_nbytes == full.recurrent_nbytes
    assert 2 * state.key_value_nbytes == full.key_value_nbytes


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_generation_is_that_of_one_process(alone: Engine, shared: Engine, options: GenerationOptions) -> None:
    for got, expected in zip(shared.generate(PROMPTS, options), alone.generate(PROMPTS, options), strict=True):
        assert (got.ids, got.finish_reason) == (expected.ids, expected.finish_reason)
        assert_close(torch.tensor(got.logprobs), torch.tensor(expected.logprobs), 1e-6)
    assert shared.generate(PROMPTS[2:3], options)[0].ids == alone.generate(PROMPTS[2:3], options)[0].ids


def test_scores_embeddings_and_streams_are_those_of_one_process(alone: Engine, shared: Engine) -> None:
    scores = [engine.score(PROMPTS[1:], strand="forward", batch_size=2) for engine in (shared, alone)]
    assert_close(torch.tensor(scores[0]), torch.tensor(scores[1]), 1e-9)
    found = [engine.embed(PROMPTS, ["blocks.2", "blocks.-1"], batch_size=2) for engine in (shared, alone)]
    for got, expected in zip(*found, strict=True):
        for layer, value in expected.items():
            assert_close(got[layer], value, 1e-6)
    events = [[event.ids for event in engine.stream("ACGT", GREEDY)] for engine in (shared, alone)]
    assert events[0] == events[1]


def test_a_scheduler_runs_over_both_processes(alone: Engine, shared: Engine) -> None:
    limits = SchedulerLimits(max_running=3, prefill_chunk=16, max_sequence_tokens=256)
    with Scheduler(shared, limits, poison_freed=True) as scheduler:
        tickets = [scheduler.generate(GenerateJob(shared.tokenizer.encode(p), GREEDY)) for p in PROMPTS]
        tickets[1].cancel()
        for _ in range(2000):
            if all(ticket.done for ticket in tickets):
                break
            signal.sigtimedwait([], 0.01)
    for index in (0, 2, 5):
        ids = [i for event in tickets[index].take() for i in getattr(event, "ids", [])]
        assert ids == alone.generate([PROMPTS[index]], GREEDY)[0].ids


def test_an_abandoned_generation_leaves_both_processes_at_one_place(alone: Engine, shared: Engine) -> None:
    stream = shared.stream("ACGTACGT", GREEDY)
    next(stream)
    stream.close()
    shared.free_states()
    assert shared.generate(["ACGGT"], GREEDY)[0].ids == alone.generate(["ACGGT"], GREEDY)[0].ids


@pytest.mark.parametrize(
    ("call", "method"),
    [
        (lambda engine: engine.generate(["ACGT"], GenerationOptions(max_new_tokens=1)), "unembed"),
        (lambda engine: engine.generate(["ACGT"], GenerationOptions(max_new_tokens=2)), "step"),
        (lambda engine: engine.score(["ACGT"]), "unembed"),
        (lambda engine: engine.forward(torch.tensor([[65, 67]])), "unembed"),
        (lambda engine: engine.embed(["ACGT"], ["blocks.2"]), "encode_blocks"),
    ],
    ids=["prompt", "step", "score", "forward", "embed"],
)
def test_a_result_to_which_a_rank_no_longer_added_is_not_given(
    shared: Engine, monkeypatch: pytest.MonkeyPatch, call: Callable[[Engine], object], method: str
) -> None:
    workers, done = shared.model._workers, getattr(shared.model.part, method)

    def last_words(*given: object, **options: object) -> object:
        result = done(*given, **options)
        workers.failure = "rank 1 of 2 ended"  # on a GPU, where sums that lack a part end without an error
        return result

    monkeypatch.setattr(shared.model.part, method, last_words)
    with pytest.raises(WorkerFailed, match="rank 1 of 2 ended"):
        call(shared)
    monkeypatch.undo()
    workers.failure = None
    shared.free_states()
    assert len(shared.generate(["ACGT"], GREEDY)[0].ids) == 12


def test_layers_inside_a_block_have_no_embedding(shared: Engine) -> None:
    with pytest.raises(InvalidOption, match=r"layer is 'blocks.1.mlp.l1'; accepted: whole blocks such as blocks.0"):
        shared.embed(["ACGT"], ["blocks.1.mlp.l1"])


def test_fused_operators_are_chosen_on_both_processes(alone: Engine, shared: Engine) -> None:
    shared.model.use_subquadratic_ops = False
    assert shared.use_subquadratic_ops is False
    ids = torch.arange(65, 90)[None]
    assert_close(shared.network.forward(ids), alone.network.forward(ids), 1e-12)
    shared.model.use_subquadratic_ops = None


@pytest.mark.usefixtures("unshared")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_heads": 1}, "1 attention heads cannot be dealt out to 2 ranks evenly"),
        ({"filter_groups": 1}, "1 filter groups cannot be dealt out to 2 ranks evenly"),
        ({"inner_size": 97}, "97 inner units of the MLP cannot be dealt out to 2 ranks evenly"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused_with_both_numbers(
    tmp_path: Path, changes: dict[str, int], text: str
) -> None:
    with pytest.raises(CheckpointConfigError, match=text):
        Engine.from_checkpoint(saved(tmp_path, **changes), **LOADED, tensor_parallel=2)


def test_a_number_of_processes_below_one_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InvalidOption, match="tensor_parallel is 0; accepted: an integer, 1 or more"):
        Engine.from_checkpoint(checkpoint, **LOADED, tensor_parallel=0)


def test_a_second_network_in_a_process_of_a_group_is_refused(checkpoint: Path, shared: Engine) -> None:
    with pytest.raises(InvalidOption, match=r"1 in a process that belongs to a torch.distributed group already"):
        Engine.from_checkpoint(checkpoint, **LOADED, tensor_parallel=shared.tensor_parallel)


@pytest.mark.usefixtures("unshared")
def test_weights_of_one_byte_are_shared_too(checkpoint: Path, alone: Engine) -> None:
    engine = Engine.from_checkpoint(checkpoint, **LOADED, weights="fp8", tensor_parallel=2)
    ids = torch.randint(65, 90, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got, exact = engine.network.forward(ids), alone.network.forward(ids)
    assert 1e-3 < float((got - exact).norm() / exact.norm()) < 0.7
    workers = engine.model._workers
    workers._processes[0].kill()
    with pytest.raises(WorkerFailed, match=r"stopped: .*; load the engine again"):
        engine.generate(["ACGT"], GREEDY)
    with pytest.raises(WorkerFailed):
        engine.generate(["ACGT"], GREEDY)
    engine.close()


@pytest.mark.usefixtures("unshared")
def test_commands_give_with_two_processes_what_they_give_with_one(checkpoint: Path) -> None:
    common = ["--device", "cpu", "--dtype", "float64", "--no-progress", "--prompt", "ACGTACGTTTACG", "--prompt", "GA"]
    rows = [
        lines(done("generate", checkpoint, *common, "--max-new-tokens", "6", *flags).stdout)
        for flags in ([], ["--tensor-parallel", "2"])
    ]
    assert rows[0] == rows[1]
    assert [len(row["ids"]) for row in rows[0]] == [6, 6]
    result = run("generate", checkpoint, *common, "--tensor-parallel", "3")
    assert result.exit_code == 2
    assert "cannot be dealt out to 3 ranks evenly" in result.stderr
