"""rearrange against its definition."""

import torch

from subquad.ops import rearrange
from subquad.ops.rearrange.reference import rearrange_reference


def test_both_directions_move_every_element() -> None:
    x = torch.randn(2, 3, 5)
    y = rearrange(x)
    assert y.is_contiguous()
    assert torch.equal(y, rearrange_reference(x))
    assert torch.equal(rearrange(y, "lbh_to_bhl"), x)
