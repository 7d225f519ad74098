"""The decode step as a program: settings of the rows, and a step ahead of its reader."""

import pytest
import torch

from packages.inference.tests.conftest import tiny_network
from subquad.inference import ByteTokenizer, Engine, GenerateJob, GenerationOptions, Ticket
from subquad.inference.continuous_batch import ContinuousBatch
from subquad.inference.decode_program import DecodeProgram, RowSettings, SamplingTable
from subquad.inference.state_pool import StatePool

PROMPTS = ["A", "ACGTACGTTTACG" * 3, "ACG", "|d__Bacteria;p__None|ACGACG", "T" * 16]
GREEDY = GenerationOptions(max_new_tokens=20, return_logprobs=True)
SAMPLED = GenerationOptions(max_new_tokens=20, temperature=1.1, top_k=40, top_p=0.95, seed=17, return_logprobs=True)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Lets steps run ahead of their reader here too, and records the rows of each."""
    launched: list[list[int]] = []
    launch = DecodeProgram.launch

    def recorded(self: DecodeProgram, slots: list[int]) -> object:
        launched.append(list(slots))
        return launch(self, slots)

    monkeypatch.setattr(DecodeProgram, "overlaps", property(lambda _: True))
    monkeypatch.setattr(DecodeProgram, "launch", recorded)
    return launched


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_running_ahead_changes_no_bit(engine, network, ahead, options, monkeypatch) -> None:
    results = Engine(network, ByteTokenizer(), max_running=4, prefill_chunk=16).generate(PROMPTS, options)
    monkeypatch.undo()
    assert results == engine.generate(PROMPTS, options)


def test_no_step_is_launched_behind_the_last_token_that_can_be_wanted(network, ahead) -> None:
    engine = Engine(network, ByteTokenizer(), max_running=1)
    generation = engine.generate(["ACGT"], GenerationOptions(max_new_tokens=9))[0]
    assert len(generation.ids) == 9
    assert len(ahead) == 8  # the first token comes from the prompt


def test_a_row_that_ended_by_itself_costs_one_step_at_most(network, ahead) -> None:
    engine = Engine(network, ByteTokenizer(), max_running=1)
    generations = engine.generate(PROMPTS * 3, GenerationOptions(max_new_tokens=200, temperature=1.0, seed=3))
    ended = [g for g in generations if g.finish_reason == "end_of_document"]
    assert ended
    assert len(ahead) <= sum(len(g.ids) + 1 for g in generations)


def test_streaming_hands_each_token_over_before_the_next_but_one_is_computed(network, ahead) -> None:
    stream = Engine(network, ByteTokenizer(), max_running=1).stream("ACGT", GenerationOptions(max_new_tokens=50))
    for count in range(1, 10):
        next(stream)
        assert len(ahead) <= count


def test_a_stream_runs_one_step_ahead_of_its_reader_and_no_further(network, ahead) -> None:
    stream = Engine(network, ByteTokenizer(), max_running=1).stream("ACGT", GenerationOptions(max_new_tokens=50))
    launched = []
    for _ in range(49):
        assert len(next(stream).ids) == 1
        launched.append(len(ahead))
    assert launched == [0, *range(2, 50)]  # the first token comes from the prompt
    assert [len(event.ids) for event in stream] == [1, 0]
    assert len(ahead) == 49


def test_a_stream_that_nobody_reads_to_its_end_leaves_an_engine_that_gives_the_same(network, ahead) -> None:
    engine = Engine(network, ByteTokenizer(), max_running=1)
    expected = engine.generate(PROMPTS[:2], GREEDY)
    kept = engine._idle_batch
    for count in (0, 1, 5):
        stream = engine.stream("GATTACA", GREEDY)
        for _ in range(count):
            next(stream)
        stream.close()
        assert engine._idle_batch is kept
        assert kept.idle
        assert kept.pool.free == 1
        assert engine.generate(PROMPTS[:2], GREEDY) == expected


def test_a_row_whose_reader_makes_room_meanwhile_is_not_launched_beside_those_that_were_ready(network, ahead) -> None:
    batch = ContinuousBatch(network, ByteTokenizer(), slots=2, max_sequence_tokens=64, prefill_chunk=16)
    tickets = [Ticket(1), Ticket(1, buffer_capacity=2)]
    for ticket in tickets:
        batch.submit(ticket, GenerateJob(list(b"ACGT"), GREEDY, ignore_end_of_document=True))
    while batch._rows.ready() != [0]:
        batch.step()
    tickets[1].take()
    ahead.clear()
    batch._rows.step([0])  # where it fails, the caller ends this row and no other
    assert ahead == [[0]]
    assert batch._rows.ready() == [0, 1]


def test_settings_keep_their_place_and_say_what_is_needed() -> None:
    table = SamplingTable(2, torch.device("cpu"))
    logits, positions = torch.randn(2, 512), torch.tensor([5, 5])
    ids, results = table.draw(logits, None)
    assert ids.tolist() == logits.argmax(-1).tolist()
    assert results[:, 1].tolist() == [0.0, 0.0]
    assert table._tensors is None  # nothing reads them
    chance = [RowSettings(temperature=1.0, seed=3, logprobs=True), RowSettings(top_k=1, temperature=1.0)]
    with torch.inference_mode():
        table.set(chance)
    assert not table.greedy
    places = [tensor.data_ptr() for tensor in table._places()]
    ids, results = table.draw(logits, positions)
    assert ids[1] == logits[1].argmax()
    assert float(results[0, 1]) == pytest.approx(float(torch.log_softmax(logits[0].double(), -1)[ids[0]]), rel=1e-12)
    table.set([RowSettings()] * 2)
    assert table.greedy
    table.set(chance)  # in another mode than the first time
    assert [tensor.data_ptr() for tensor in table._places()] == places
    assert torch.equal(table.draw(logits, positions)[0], ids)


def test_a_row_that_ends_with_its_first_token_is_never_placed(network, monkeypatch) -> None:
    placed, set_id = [], DecodeProgram.set_id
    monkeypatch.setattr(DecodeProgram, "set_id", lambda self, *row: (placed.append(row), set_id(self, *row)))
    engine = Engine(network, ByteTokenizer(), max_running=1)
    for tokens, count in ((1, 0), (2, 1)):
        assert len(engine.generate(["ACGT"], GenerationOptions(max_new_tokens=tokens))[0].ids) == tokens
        assert len(placed) == count


def test_logits_that_are_not_finite_show_in_the_results() -> None:
    logits = torch.randn(2, 512)
    logits[1, 7] = torch.inf
    _, results = SamplingTable(2, torch.device("cpu")).draw(logits, torch.zeros(2, dtype=torch.int64))
    assert results[:, 2].tolist() == [1.0, 0.0]


def test_a_program_on_a_cpu_says_why_it_is_not_a_graph() -> None:
    network = tiny_network()
    pool = StatePool(network, 2, 64)
    assert DecodeProgram(network, pool).eager_reason == "the network is on cpu"
    engine = Engine(network, ByteTokenizer(), max_running=1)
    assert engine.explain() == "decode steps run eagerly: no step has run yet"
    engine.generate(["ACGT"])
    assert engine.explain() == "decode steps run eagerly: the network is on cpu"


def test_rows_that_are_not_launched_keep_their_token_and_state() -> None:
    network = tiny_network()
    pool = StatePool(network, 3, 64)
    assert pool.acquire(3) is not None
    program = DecodeProgram(network, pool)
    for slot in range(3):
        program.set_id(slot, 65 + slot)
    program.launch([0, 2]).read()
    assert pool.state.position.tolist() == [1, 0, 1]
    assert program._ids[1] == 66


@torch.inference_mode()
def test_steps_over_rows_that_come_and_go_give_the_bits_of_the_network_s_own_steps() -> None:
    network = tiny_network()
    pools = [StatePool(network, 3, 64) for _ in range(2)]
    for pool in pools:
        assert pool.acquire(3) is not None
    program, ids = DecodeProgram(network, pools[0]), torch.tensor([65, 71, 84])
    for slot, token in enumerate(ids.tolist()):
        program.set_id(slot, token)
    for slots in ([0, 1, 2], [0, 1, 2], [1], [1], [0, 2], [0, 1, 2]):
        rows = program.launch(slots).read()
        active = torch.zeros(3, dtype=torch.bool)
        active[slots] = True
        chosen = network.step(ids, pools[1].state, active=active).argmax(-1)
        ids = torch.where(active, chosen, ids)
        assert [rows[slot][0] for slot in slots] == ids[slots].tolist()
        for mine, other in zip(pools[0].state.layers, pools[1].state.layers, strict=True):
            assert all(torch.equal(mine.tensors()[name], tensor) for name, tensor in other.tensors().items())


def test_weights_that_change_between_requests_are_seen() -> None:
    network = tiny_network()
    engine = Engine(network, ByteTokenizer(), max_running=2)
    before = engine.generate(PROMPTS[:2], GREEDY)
    network.load_state_dict(tiny_network(seed=1).state_dict())
    after = engine.generate(PROMPTS[:2], GREEDY)
    assert after != before
    assert after == Engine(tiny_network(seed=1), ByteTokenizer(), max_running=2).generate(PROMPTS[:2], GREEDY)
