"""Tests of the question whether a job fits into memory."""

import pytest
import torch

from subquad.inference import memory
from subquad.inference.errors import InsufficientMemory


def test_the_estimate_is_what_a_state_takes(network):
    state = network.init_state(3, max_length=100)
    assert memory.state_bytes(network, 3, 100) == pytest.approx(state.nbytes, rel=1e-3)  # and tables of pages


def test_something_is_free_here():
    assert memory.free_bytes(torch.device("cpu")) > 1 << 20


@pytest.mark.parametrize(
    ("folder", "limit", "usage", "unneeded"),
    [
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch, folder, limit, usage, unneeded):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    unlimited = memory.free_bytes(torch.device("cpu"))
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / usage).write_text("700000\n")
    (group / "memory.stat").write_text(f"anon 5\n{unneeded} 200000\n")
    for text, expected in (("1000000\n", 500_000), ("100\n", 0)):
        (group / limit).write_text(text)
        assert memory.free_bytes(torch.device("cpu")) == expected
    (group / limit).write_text("max\n")
    assert memory.free_bytes(torch.device("cpu")) == pytest.approx(unlimited, rel=0.5)


def test_a_job_that_does_not_fit_is_refused_with_both_numbers(network, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 3 << 20)
    memory.require_memory(network, torch.device("cpu"), rows=1, length=100, field="x")
    problem = r"prompts\[0\]: 1000000 tokens need 976\.6\d MiB for their state, 3\.00 MiB are free on cpu"
    with pytest.raises(InsufficientMemory, match=problem):
        memory.require_memory(network, torch.device("cpu"), rows=1, length=1_000_000, field="prompts[0]")
