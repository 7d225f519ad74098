"""A network whose channels are dealt out to ranks, here threads, against the whole network."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from packages.modules.tests.support import TINY, lively_model, random_ids
from subquad.modules import ChannelShards, ConfigurationError, StripedHyena2, WholeChannels, round_linears
from tools.testing.oracle import assert_close, relative_error


class ThreadShards:
    """Ranks that are threads of one process; all make the same calls."""

    def __init__(self, size: int, rank: int, parts: list[Tensor], barrier: threading.Barrier) -> None:
        self.size, self.rank, self.sums = size, rank, 0
        self._parts, self._barrier = parts, barrier

    def total(self, part: Tensor) -> Tensor:
        """Sums over the threads in the order of the ranks."""
        self.sums += 1
        self._parts[self.rank] = part
        self._barrier.wait()
        total = torch.stack(self._parts).sum(0)
        self._barrier.wait()
        return total


def parts_of(whole: StripedHyena2, size: int, **options: Any) -> list[StripedHyena2]:
    """Cuts a network: of each tensor a rank holds its part along the axis in which the shapes differ."""
    parts, barrier = [torch.empty(0)] * size, threading.Barrier(size)
    networks = []
    for rank in range(size):
        shards = ThreadShards(size, rank, parts, barrier)
        assert isinstance(shards, ChannelShards)
        network = StripedHyena2(**TINY, shards=shards, dtype=torch.float64, **options).eval()
        full = whole.state_dict()
        for name, tensor in network.state_dict().items():
            cut = full[name]
            for axis, count in enumerate(tensor.shape):
                if count != cut.shape[axis]:
                    cut = cut.narrow(axis, rank * count, count)
            tensor.copy_(cut)
        networks.append(network)
    return networks


def on_all(networks: list[StripedHyena2], call: Callable[[StripedHyena2], Tensor]) -> list[Tensor]:
    """Calls a function for every rank at once."""

    def run(network: StripedHyena2) -> Tensor:
        with torch.inference_mode():
            return call(network)

    with ThreadPoolExecutor(len(networks)) as pool:
        return list(pool.map(run, networks))


def in_pieces(ids: Tensor) -> Callable[[StripedHyena2], Tensor]:
    """Reads tokens in chunks, then one by one."""

    def read(network: StripedHyena2) -> Tensor:
        state = network.init_state(ids.shape[0], max_length=ids.shape[1])
        rows = [network.unembed(network.encode(part, state)) for part in ids[:, :-5].split([1, 100, 34], dim=1)]
        rows += [network.step(token, state)[:, None] for token in ids[:, -5:].unbind(1)]
        return torch.cat(rows, dim=1)

    return read


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("fp8", [False, True])
def test_ranks_give_the_logits_of_the_whole_network(size: int, fp8: bool) -> None:
    whole = lively_model(fp8_projections=fp8)
    networks, ids = parts_of(whole, size, fp8_projections=fp8), random_ids(2, 140)
    with torch.inference_mode():
        expected = whole(ids)
    for got in (*on_all(networks, lambda n: n(ids)), *on_all(networks, in_pieces(ids))):
        assert_close(got, expected, 1e-12)
    assert networks[0].shards.sums == networks[-1].shards.sums  # type: ignore[attr-defined]


def test_weights_of_one_byte_are_rounded_on_each_rank() -> None:
    whole = lively_model()
    networks, ids = parts_of(whole, 2), random_ids(1, 140)
    for network in networks:
        round_linears(network)
    first, second = on_all(networks, lambda n: n(ids))
    assert torch.equal(first, second)
    with torch.inference_mode():
        assert 1e-3 < relative_error(first, whole(ids)) < 0.7


def test_a_rank_holds_its_share_of_layers_and_states_and_one_has_the_biases() -> None:
    whole = lively_model()
    first, second = parts_of(whole, 2)
    layers = sum(p.numel() for name, p in whole.named_parameters() if "blocks" in name and "scale" not in name)
    biases = sum(p.numel() for name, p in whole.named_parameters() if name.endswith("bias"))
    held = [
        sum(p.numel() for n, p in x.named_parameters() if "blocks" in n and "scale" not in n) for x in (first, second)
    ]
    assert held == [(layers - biases) // 2 + biases, (layers - biases) // 2]
    states = [network.init_state(3, max_length=20) for network in (whole, first)]
    assert states[1].recurrent_nbytes * 2 == states[0].recurrent_nbytes
    assert states[1].key_value_nbytes * 2 == states[0].key_value_nbytes


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_heads": 2}, "2 attention heads cannot be dealt out to 4 ranks evenly; accepted is a number of ranks"),
        ({"filter_groups": 2}, "2 filter groups cannot be dealt out to 4 ranks evenly"),
        ({"inner_size": 98}, "98 inner units of the MLP cannot be dealt out to 4 ranks evenly"),
        ({"hidden_size": 66, "filter_groups": 4}, "66 channels cannot be dealt out to 4 ranks evenly"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused_with_both_numbers(change: dict[str, int], text: str) -> None:
    shards = ThreadShards(4, 0, [], threading.Barrier(4))
    with pytest.raises(ConfigurationError, match=text):
        StripedHyena2(**{**TINY, **change}, shards=shards, device="meta")


def test_one_rank_is_the_whole() -> None:
    part = torch.ones(3)
    assert WholeChannels().total(part) is part
