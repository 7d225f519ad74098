"""Scoring and embedding on a GPU: nothing waits for the device while a chunk is launched."""

import pytest
import torch

from packages.inference.tests.conftest import tiny_network
from subquad.inference import ByteTokenizer, Engine
from subquad.inference.embedding import EmbeddingPass
from subquad.inference.passes import Pass, StatesInTurn
from subquad.inference.scoring import ScoringPass

pytestmark = pytest.mark.gpu

CHUNK = 64
TEXTS = ["ACGTTTACG" * 30, "GATTACA" * 20, "CCGT" * 11, "GG", "TTAGGG" * 3]


@pytest.mark.parametrize("tokens", [40, 150])
@pytest.mark.parametrize("kind", ["score", "embed"])
def test_nothing_waits_while_chunks_are_launched(kind: str, tokens: int) -> None:
    network = tiny_network(dtype=torch.bfloat16).cuda()
    device, row = torch.device("cuda"), [65, 67] * (tokens // 2)
    states = StatesInTurn(network, CHUNK, device)

    def new_pass() -> Pass:
        state = states.empty(1, tokens)
        if kind == "score":
            return ScoringPass(network, [row], chunk=CHUNK, device=device, state=state, keep_logprobs=True)
        return EmbeddingPass(
            network, [row], ["blocks.5"], pooling="none", first=0, chunk=CHUNK, device=device, pad_id=1, state=state
        )

    first = new_pass()
    while not first.done:  # compiles kernels
        first.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = new_pass()
        while not second.done:
            second.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert str(first.results()) == str(second.results())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sequences_one_behind_the_other_give_bitwise_what_each_gives_alone(dtype: torch.dtype) -> None:
    engine = Engine(tiny_network(dtype=dtype).cuda(), ByteTokenizer(), prefill_chunk=CHUNK)
    together = engine.score(TEXTS, reduce="none")
    assert together == [engine.score([text], reduce="none")[0] for text in TEXTS]
    for pooling in ("mean", "none"):
        found = engine.embed(TEXTS, ["blocks.2"], pooling=pooling)
        for text, values in zip(TEXTS, found, strict=True):
            (alone,) = engine.embed([text], ["blocks.2"], pooling=pooling)
            assert torch.equal(values["blocks.2"], alone["blocks.2"])
            assert not values["blocks.2"].is_pinned()
