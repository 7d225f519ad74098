"""The checkpoint that the tests of commands share."""

import pytest

from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import save_checkpoint
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A native checkpoint of the tiny network for up to 256 tokens."""
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(path, tiny_network(), LazyConfig(StripedHyena2)(**TINY), metadata={"max_sequence_tokens": 256})
    return path
