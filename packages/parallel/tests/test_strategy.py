"""Training on two processes takes the steps that training on one takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from packages.parallel.tests.ranks import run_on_ranks
from packages.parallel.tests.strategy_workers import STEPS, train, train_context_parallel, train_data_parallel
from subquad.parallel import ParallelError
from subquad.parallel.strategy import MegatronStrategy
from tools.testing.oracle import assert_close


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return train("auto", 1)


@pytest.mark.parametrize("worker", [train_data_parallel, train_context_parallel])
def test_two_processes_take_the_steps_of_one(worker: Callable[[], dict[str, Any]], alone: dict[str, Any]):
    for results in run_on_ranks(worker, 2):
        assert len(results["losses"]) == STEPS
        losses, expected = (torch.tensor(run["losses"], dtype=torch.float64) for run in (results, alone))
        assert_close(losses, expected, relative=1e-10)
        for name, weight in alone["weights"].items():
            assert_close(results["weights"][name], weight, relative=1e-9)


def test_asking_for_the_state_too_early_is_refused():
    with pytest.raises(ParallelError, match="ask after that"):
        _ = MegatronStrategy().state
