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


def test_a_job_that_does_not_fit_is_refused_with_both_numbers(network, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 3 << 20)
    memory.require_memory(network, torch.device("cpu"), rows=1, length=100, field="x")
    problem = r"prompts\[0\]: 1000000 tokens need 976\.6\d MiB for their state, 3\.00 MiB are free on cpu"
    with pytest.raises(InsufficientMemory, match=problem):
        memory.require_memory(network, torch.device("cpu"), rows=1, length=1_000_000, field="prompts[0]")
