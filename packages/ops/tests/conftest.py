"""Fixtures of the operators' tests."""

import jaxtyping
import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches the shape checker off, so that our own errors, or torch.compile, meet the call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
