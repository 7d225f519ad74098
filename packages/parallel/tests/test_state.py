"""Real megatron-core process groups on two processes over gloo, and on one."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.distributed as dist

from packages.parallel.tests.ranks import run_on_ranks
from packages.parallel.tests.state_workers import set_up
from subquad.parallel import MissingExtraError, _compat, destroy_parallel_state, init_parallel_state


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_on_ranks(set_up, 2)


def test_two_processes_share_a_sequence_or_the_data(ranks: list[dict[str, Any]]):
    for rank, results in enumerate(ranks):
        sizes = {"world_size": 2, "rank": rank, "tensor_size": 1, "pipeline_size": 1}
        shared = {"context_size": 2, "context_rank": rank, "data_size": 1, "data_rank": 0}
        apart = {"context_size": 1, "context_rank": 0, "data_size": 2, "data_rank": rank}
        assert results["context"] == sizes | shared
        assert results["data"] == sizes | apart
        assert results["exchange"] == (2, rank, 2)
        assert results["again"]


def test_our_order_is_that_of_megatron_core(ranks: list[dict[str, Any]]):
    for results in ranks:
        ours, theirs = results["order"]
        assert torch.equal(ours, theirs)


def test_sizes_that_do_not_fit_are_refused(ranks: list[dict[str, Any]]):
    for results in ranks:
        divide, least, other = results["refused"]
        assert divide.startswith("tensor 3 * pipeline 1 * context 1 does not divide the 2 processes")
        assert least == "context is 0; accepted is a whole number of at least 1"
        assert "are set up with (tensor, pipeline, context) = (1, 1, 2), asked for is (2, 1, 1)" in other


def test_a_process_alone_needs_no_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    state = init_parallel_state(backend="gloo")
    try:
        assert (state.world_size, state.data_size, state.context_size) == (1, 1, 1)
    finally:
        destroy_parallel_state()
    assert not dist.is_initialized()


def test_without_megatron_core_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "megatron.core.parallel_state", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'subquad-parallel\[megatron\]'") as caught:
        _compat.parallel_state()
    assert isinstance(caught.value, ImportError)
    assert caught.value.extra == "megatron"


def test_the_package_imports_with_torch_alone():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('megatron', 'lightning')));"
        "import subquad.parallel; assert subquad.parallel.ContextExchange"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
