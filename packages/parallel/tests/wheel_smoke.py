"""Runs where only the wheel and what it requires are installed: torch, but neither megatron-core nor Lightning."""

import sys

import torch
import torch.distributed as dist

from subquad.parallel import ContextExchange, MissingExtraError, init_parallel_state, zigzag_merge, zigzag_split

x = torch.arange(16.0)
assert torch.equal(zigzag_merge([zigzag_split(x, size=2, rank=rank) for rank in (0, 1)]), x)

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
assert dist.group.WORLD is not None
assert ContextExchange(dist.group.WORLD).segments == 1
dist.destroy_process_group()

message = ""
try:
    init_parallel_state()
except MissingExtraError as error:
    message = str(error)
assert "pip install 'subquad-parallel[megatron]'" in message, "megatron-core must not come with the plain package"
assert not any(name.split(".")[0] in ("megatron", "lightning") for name in sys.modules)
