"""Networks that the tests share."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from subquad.inference import ByteTokenizer, Engine, Scheduler, SchedulerLimits
from subquad.modules import StripedHyena2

TINY = {
    "pattern": "SDH*SDH*",
    "hidden_size": 64,
    "num_heads": 4,
    "inner_size": 96,
    "filter_groups": 8,
}


def tiny_network(seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: object) -> StripedHyena2:
    """Returns a small network, of ``TINY`` or other sizes, whose output depends strongly on the whole input."""
    torch.manual_seed(seed)
    network = StripedHyena2(**{**TINY, **sizes}, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".weight"):
                spread = 0.5 if "embedding" in name else 2.0 / parameter.shape[-1] ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * spread)
            elif name.endswith("taps"):
                width = parameter.shape[-1] ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) / width)
    return network.eval()


def unmixed_network(dtype: torch.dtype) -> StripedHyena2:
    """Returns one whose blocks add nothing: its vectors are those of its last token, however it was read."""
    network = tiny_network(dtype=dtype)
    with torch.no_grad():
        for name, parameter in network.blocks.named_parameters():
            if name.endswith((".weight", ".bias")):
                parameter.zero_()
        network.norm.scale.copy_(torch.randn(TINY["hidden_size"], generator=torch.Generator().manual_seed(1)) * 0.5)
    return network


@pytest.fixture(scope="session")
def network() -> StripedHyena2:
    """A tiny StripedHyena 2 in float32; tests must not change it."""
    return tiny_network()


@pytest.fixture(scope="session")
def engine(network: StripedHyena2) -> Engine:
    """An engine with four rows and chunks of 16 tokens."""
    return Engine(network, ByteTokenizer(), max_running=4, prefill_chunk=16, max_sequence_tokens=512)


@pytest.fixture(scope="session")
def exact_engine() -> Engine:
    """The same in float64, for comparisons whose bounds must not depend on how a processor rounds float32 sums."""
    network = tiny_network(dtype=torch.float64)
    return Engine(network, ByteTokenizer(), max_running=4, prefill_chunk=16, max_sequence_tokens=512)


@pytest.fixture
def fresh_network() -> StripedHyena2:
    """A tiny network of the test's own."""
    return tiny_network()


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Switches the run-time check of annotations off, for tests that hand over wrong types on purpose."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    """A running scheduler of four rows whose freed states are full of NaN."""
    limits = SchedulerLimits(max_running=4, max_queued=64, prefill_chunk=16, max_sequence_tokens=512)
    with Scheduler(engine, limits, poison_freed=True) as running:
        yield running
