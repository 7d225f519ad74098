"""Sums over the ranks that share layers, and where a rank's part of a tensor lies."""

import pytest
import torch
import torch.distributed as dist

from packages.parallel.tests.ranks import run_on_ranks
from subquad.modules import ChannelShards
from subquad.parallel import ParallelError, SplitShapeError, TensorShards, own_part


def summed() -> dict[str, object]:
    """What each rank gets and sends."""
    assert dist.group.WORLD is not None
    shards = TensorShards(dist.group.WORLD)
    part = torch.full((2, 3), 1.0 + shards.rank, dtype=torch.float64)
    total = shards.total(part)
    strided = shards.total(torch.full((3, 2), 1.0 + shards.rank).t())
    try:
        shards.total(part.clone().requires_grad_())
        refusal = ""
    except ParallelError as error:
        refusal = str(error)
    with torch.no_grad():
        shards.total(part.clone().requires_grad_())
    return {
        "place": (shards.size, shards.rank),
        "total": total,
        "in place": total.data_ptr() == part.data_ptr(),
        "strided": strided,
        "sent": (shards.traffic.sent_bytes, shards.traffic.collectives),
        "refusal": refusal,
        "kind": isinstance(shards, ChannelShards),
    }


def test_every_rank_gets_the_sum_and_counts_what_it_sent() -> None:
    found = run_on_ranks(summed, 2)
    for rank, result in enumerate(found):
        assert result["place"] == (2, rank)
        assert torch.equal(result["total"], torch.full((2, 3), 3.0, dtype=torch.float64))
        assert result["in place"]
        assert torch.equal(result["strided"], torch.full((2, 3), 3.0))
        assert result["sent"] == (48 + 24 + 48, 3)
        assert result["refusal"] == "no gradient flows through layers that ranks share; run them under torch.no_grad()"
        assert result["kind"]


def test_one_rank_sends_nothing() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        shards = TensorShards(dist.group.WORLD)  # type: ignore[arg-type]
        part = torch.ones(3, requires_grad=True)
        assert shards.total(part) is part
        assert shards.traffic.collectives == 0
    finally:
        dist.destroy_process_group()


def test_the_part_of_a_rank_lies_along_the_axis_in_which_the_shapes_differ() -> None:
    whole = torch.arange(24).view(4, 6)
    assert whole[own_part((4, 6), (2, 6), rank=1)].tolist() == whole[2:].tolist()
    assert whole[own_part((4, 6), (4, 2), rank=2)].tolist() == whole[:, 4:].tolist()
    assert whole[own_part((4, 6), (4, 6), rank=5)].tolist() == whole.tolist()
    with pytest.raises(SplitShapeError, match=r"a part \(3, 6\) of rank 1 does not lie in a tensor \(4, 6\)"):
        own_part((4, 6), (3, 6), rank=1)
    with pytest.raises(SplitShapeError, match=r"a part \(4,\) of rank 0 does not lie in a tensor \(4, 6\)"):
        own_part((4, 6), (4,), rank=0)
