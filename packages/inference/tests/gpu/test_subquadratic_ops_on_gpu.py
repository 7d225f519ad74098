"""The fused operators on a GPU: full sizes, compiled kernels, and together with captured graphs."""

import pytest
import torch
from torch import Tensor

from packages.inference.benchmarks.subquadratic_ops import prompt_of, random_network
from packages.inference.tests.conftest import tiny_network
from subquad.inference import ByteTokenizer, Engine, GenerationOptions
from subquad.modules import StripedHyena2
from tools.testing.oracle import assert_close, relative_error

pytestmark = pytest.mark.gpu

LENGTHS = (1, 2, 6, 7, 8, 127, 128, 129, 130, 131, 4096)
BF16_ALLOWANCE = 1.05


def kernels(network: StripedHyena2, length: int) -> set[str]:
    """The backends that the fused operators of all Hyena layers take."""
    found = set()
    for block in network.blocks:
        if hasattr(block, "filter"):
            weight = block.projections.weight
            z = torch.empty(1, weight.shape[0], length, device=weight.device, dtype=network.norm.scale.dtype)
            found.add(block.filter.explain_projected(z, block.projection_taps).backend)
    return found


def logits_of(network: StripedHyena2, ids: Tensor, choice: bool | None) -> Tensor:
    network.use_subquadratic_ops = choice
    return network(ids)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [pytest.param(torch.bfloat16, id="1b-8k-bf16-subquadratic-ops-flash")])
def test_forward_manual(dtype):
    """The 1b model at 8,192 tokens: the fused operators are no further from float32 than their parts."""
    ids = torch.tensor([prompt_of(8192)], device="cuda")
    network = random_network("1b_base", dtype, "cuda")
    assert "torch" not in kernels(network, 8192)
    fused, apart = logits_of(network, ids, True).float(), logits_of(network, ids, False).float()
    exact = logits_of(network.to(torch.float32), ids, False)  # the same rounded weights
    assert relative_error(fused, exact) <= BF16_ALLOWANCE * relative_error(apart, exact)
    agreement = (fused.argmax(-1) == exact.argmax(-1)).double().mean()
    assert agreement >= (apart.argmax(-1) == exact.argmax(-1)).double().mean() - 0.01


@pytest.mark.parametrize("prefill_chunk", [100, 2048])
def test_subquadratic_ops_matches_baseline(prefill_chunk):
    """Greedy tokens in float32 are the same for prompts shorter and longer than the filters, alone and in turn."""
    prompts = [prompt_of(length) for length in LENGTHS[:-1]] + [prompt_of(700)]
    found = []
    for choice in (True, False):
        network = tiny_network().to("cuda")
        engine = Engine(
            network,
            ByteTokenizer(),
            max_running=4,
            prefill_chunk=prefill_chunk,
            max_sequence_tokens=1024,
            use_subquadratic_ops=choice,
        )
        assert "torch" not in kernels(network, 64)
        found.append([result.ids for result in engine.generate(prompts, GenerationOptions(max_new_tokens=24))])
    assert found[0] == found[1]


@torch.inference_mode()
@pytest.mark.parametrize("length", LENGTHS)
def test_states_after_a_prompt_are_equal_and_steps_go_on_from_them(length):
    network = tiny_network().to("cuda")
    ids = torch.tensor([prompt_of(length + 1)], device="cuda")
    found = []
    for choice in (True, False):
        network.use_subquadratic_ops = choice
        state = network.init_state(1, max_length=length + 1)
        network.encode(ids[:, :length], state)
        tensors = {f"{i}.{n}": v.clone() for i, s in enumerate(state.layers) for n, v in s.tensors().items()}
        found.append((tensors, network.step(ids[:, length], state)))
    for name, value in found[0][0].items():
        if value.is_floating_point():
            assert_close(value, found[1][0][name], relative=1e-5)
    assert_close(found[0][1], found[1][1], relative=1e-5)


@torch.inference_mode()
def test_a_fused_forward_can_be_captured_in_a_graph():
    network = tiny_network().to("cuda")
    network.use_subquadratic_ops = True
    ids = torch.tensor([prompt_of(300)], device="cuda")
    expected = network(ids)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        network(ids)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = network(ids)
    ids.copy_(torch.tensor([prompt_of(301)[1:]], device="cuda"))
    graph.replay()
    assert_close(captured, network(ids), relative=1e-6)
    assert relative_error(captured, expected) > 1e-3, "the replay read the new tokens"


def test_what_no_kernel_takes_is_refused_with_the_reason():
    from subquad.inference.errors import InvalidOption

    network = tiny_network(dtype=torch.float64).to("cuda")
    with pytest.raises(InvalidOption, match=r"use_subquadratic_ops is True; .*dtype float64"):
        Engine(network, ByteTokenizer(), use_subquadratic_ops=True)
    Engine(network, ByteTokenizer(), use_subquadratic_ops=False)
