"""Runs in a fresh environment that holds the wheel and only what it declares to need."""

import importlib.util

import torch

from subquad.lazy_config import instantiate
from subquad.modules import striped_hyena2_preset

model = instantiate(striped_hyena2_preset("tiny")).eval()
with torch.inference_mode():
    ids = torch.tensor([list(b"ACGTACGT")])
    state = model.init_state(1, max_length=8)
    model.encode(ids[:, :7], state)
    assert torch.allclose(model.step(ids[:, 7], state), model(ids)[:, -1], atol=1e-4)
for absent in ("megatron", "lightning", "grpc"):
    assert importlib.util.find_spec(absent) is None, f"{absent} is within reach; the wheel must not need it"
