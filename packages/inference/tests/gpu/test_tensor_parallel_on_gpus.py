"""A network that two GPUs share: what one gives, by captured steps with the sums inside; and how it ends."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from packages.inference.tests.conftest import TINY, tiny_network
from packages.inference.tests.processes import followers
from subquad.inference import Engine, GenerationOptions, save_checkpoint
from subquad.inference.errors import WorkerFailed
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2
from tools.testing.oracle import assert_close

pytestmark = pytest.mark.multi_gpu

DEVICE = "cuda"
EXPLAINED = "decode steps run as one captured CUDA graph"
PROMPTS = ["A", "ACGTACGTTTACG" * 3, "ACG", "|d__Bacteria;p__None|ACGACG", "T" * 300]
GREEDY = GenerationOptions(max_new_tokens=40, return_logprobs=True)
SAMPLED = GenerationOptions(max_new_tokens=40, temperature=1.1, top_k=40, top_p=0.95, seed=17, return_logprobs=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in float32."""
    path = tmp_path_factory.mktemp("shared") / "checkpoint"
    save_checkpoint(path, tiny_network(), LazyConfig(StripedHyena2)(**TINY), metadata={"max_sequence_tokens": 2048})
    return path


def engine_of(checkpoint: Path, ranks: int) -> Engine:
    """Loads an engine."""
    return Engine.from_checkpoint(checkpoint, device=DEVICE, max_running=5, prefill_rows=4, tensor_parallel=ranks)


def test_two_gpus_give_what_one_gives_by_captured_steps(checkpoint: Path) -> None:
    alone, shared = engine_of(checkpoint, 1), engine_of(checkpoint, 2)
    ids = torch.randint(65, 90, (2, 300), generator=torch.Generator().manual_seed(1))
    assert_close(shared.forward(ids), alone.forward(ids), 2e-3)  # products of float32 may be rounded to TF32
    for options in (GREEDY, SAMPLED):
        one, other = (engine.generate(PROMPTS, options) for engine in (shared, alone))
        for got, expected in zip(one, other, strict=True):
            assert_close(torch.tensor(got.logprobs[:4]), torch.tensor(expected.logprobs[:4]), 1e-3)
            assert got.ids[:4] == expected.ids[:4]  # later ones may follow from rounding
        assert shared.generate(PROMPTS, options) == one
    assert shared.explain() == EXPLAINED
    assert len(shared.model.peak_bytes()) == 2
    shared.close()


def test_a_captured_step_holds_up_neither_the_end_nor_the_next_engine(checkpoint: Path) -> None:
    for _ in range(2):
        engine = engine_of(checkpoint, 2)
        stream = engine.stream("ACGT", GREEDY)
        assert len([next(stream) for _ in range(5)]) == 5
        start = time.monotonic()
        engine.close()
        assert time.monotonic() - start < 15


def test_a_rank_that_is_killed_ends_the_call_soon(checkpoint: Path) -> None:
    engine = engine_of(checkpoint, 2)
    stream = engine.stream("ACGT", GenerationOptions(max_new_tokens=1500))
    next(stream)
    start = time.monotonic()
    os.kill(followers(os.getpid())[0], signal.SIGKILL)
    with pytest.raises(WorkerFailed, match="rank 1 of 2 ended"):
        list(stream)
    engine.close()
    assert time.monotonic() - start < 60
    again = engine_of(checkpoint, 2)
    assert len(again.generate(["ACGT"], GREEDY)[0].ids) == 40
    again.close()
