"""The decode step as a captured graph, on a GPU: what it gives is what the eager step gives."""

import pytest
import torch

from packages.inference.tests.conftest import tiny_network, unmixed_network
from subquad.inference import ByteTokenizer, Engine, GenerationOptions
from subquad.inference.decode_program import DecodeProgram, RowSettings
from subquad.inference.state_pool import StatePool

pytestmark = pytest.mark.gpu

PROMPTS = ["A", "ACGTACGTTTACG" * 3, "ACG", "|d__Bacteria;p__None|ACGACG", "T" * 300]
GREEDY = GenerationOptions(max_new_tokens=40, return_logprobs=True)
SAMPLED = GenerationOptions(max_new_tokens=40, temperature=1.1, top_k=40, top_p=0.95, seed=17, return_logprobs=True)
each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def program(dtype: torch.dtype, *, eager: bool) -> DecodeProgram:
    """Returns a program of three rows with different settings."""
    network = tiny_network(dtype=dtype).cuda()
    pool = StatePool(network, 3, 200)
    assert pool.acquire(3) is not None
    made = DecodeProgram(network, pool)
    if eager:
        made.eager_reason = "the test asks for it"
    made.settings.set([RowSettings(), RowSettings(1.0, 40, 0.95, 7, 0, True), RowSettings(0.7, 0, 1.0, 9, 1)])
    for slot in range(3):
        made.set_id(slot, 65 + slot)
    return made


@each_type
def test_a_graph_gives_bitwise_what_eager_steps_give(dtype: torch.dtype) -> None:
    graph, eager = program(dtype, eager=False), program(dtype, eager=True)
    for step in range(100):
        slots = [0, 1, 2] if step % 3 else [0, 2]
        one, other = graph.launch(slots).read(), eager.launch(slots).read()
        assert [one[slot] for slot in slots] == [other[slot] for slot in slots]
    assert graph.eager_reason is None


@each_type
@pytest.mark.parametrize("side_by_side", [1, 4])
@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_prompts_in_a_batch_give_bitwise_what_each_gives_alone(
    dtype: torch.dtype, options: GenerationOptions, side_by_side: int
) -> None:
    chunk = 16 if side_by_side == 1 else 512
    network = tiny_network(dtype=dtype).cuda()
    engine = Engine(network, ByteTokenizer(), max_running=4, prefill_chunk=chunk, prefill_rows=side_by_side)
    together = engine.generate(PROMPTS, options)
    assert engine.explain() == "decode steps run as one captured CUDA graph"
    for prompt, result in zip(PROMPTS, together, strict=True):
        assert engine.generate([prompt], options) == [result]
    assert engine.generate(PROMPTS[::-1], options) == together[::-1]


@pytest.mark.parametrize("rows", [1, 4, 12])
def test_steps_of_any_number_of_rows_give_the_greedy_tokens_of_the_cpu(rows: int) -> None:
    network = tiny_network()
    expected = Engine(network, ByteTokenizer(), max_running=rows).generate(PROMPTS, GREEDY)
    results = Engine(tiny_network().cuda(), ByteTokenizer(), max_running=rows).generate(PROMPTS, GREEDY)
    assert [g.ids for g in results] == [g.ids for g in expected]
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=1e-4, atol=1e-4)


def test_short_prompts_come_from_one_graph_a_width_and_give_what_the_cpu_gives() -> None:
    prompts = ["ACGT" * count for count in (1, 9, 16, 17, 30, 60)]
    expected = Engine(tiny_network(), ByteTokenizer(), max_running=6, prefill_rows=8).generate(prompts, GREEDY)
    engine = Engine(tiny_network().cuda(), ByteTokenizer(), max_running=6, prefill_chunk=512)
    assert engine.prefill_rows == 8
    for _ in range(2):
        results = engine.generate(prompts, GREEDY)
        assert [g.ids for g in results] == [g.ids for g in expected]
        for one, other in zip(results, expected, strict=True):
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=1e-4, atol=1e-4)
    kept = engine._idle_batch
    assert kept is not None
    assert kept._short is not None
    assert sorted(kept._short._graphs) == [64, 128, 256]


@pytest.mark.parametrize("rows", [1, 4, 12])
def test_steps_draw_from_unrounded_logits(rows: int) -> None:
    """Norm and products of a step round elsewhere than those of a pass, but neither rounds a logit."""
    network = unmixed_network(torch.bfloat16).cuda()
    engine = Engine(network, ByteTokenizer(), max_running=rows)
    for prompt, result in zip(PROMPTS, engine.generate(PROMPTS, SAMPLED), strict=True):
        (scored,) = engine.score([[*prompt.encode(), *result.ids]], reduce="none")
        assert result.logprobs == pytest.approx(scored[len(prompt) - 1 :], abs=3e-2)
    assert engine.explain() == "decode steps run as one captured CUDA graph"
    ids = torch.arange(65, 65 + rows, device="cuda")
    with torch.inference_mode():
        states = [network.init_state(rows, max_length=64) for _ in range(2)]
        for logits in (network.step(ids, states[0]), network.prepare_step(states[1])(ids)):
            assert logits.dtype == torch.float32
            assert float((logits != logits.bfloat16()).float().mean()) > 0.9
