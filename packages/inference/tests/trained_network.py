"""A network that has learned something: its most likely base stands far above the others, as a published one's does."""

import torch
from torch.nn import functional

from subquad.modules import StripedHyena2

_STEPS, _BATCH, _LENGTH = 120, 4, 160


def motif() -> str:
    """A stretch of 61 bases that repeats without end in what the network is trained on."""
    draw = torch.randint(0, 4, (61,), generator=torch.Generator().manual_seed(2))
    return "".join("ACGT"[base] for base in draw.tolist())


def trained_network() -> StripedHyena2:
    """Trains a network of every kind of layer on the repeated motif until it predicts it."""
    torch.manual_seed(0)
    network = StripedHyena2(
        pattern="SDH*SDH", hidden_size=64, num_heads=4, inner_size=96, filter_groups=8, filter_parameters="p_gamma"
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    text = torch.tensor(list((motif() * 8).encode()))
    starts = torch.Generator().manual_seed(3)
    loss = torch.tensor(float("inf"))
    for _ in range(_STEPS):
        first = torch.randint(0, len(motif()), (_BATCH,), generator=starts).tolist()
        ids = torch.stack([text[start : start + _LENGTH] for start in first])
        loss = functional.cross_entropy(network(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5, f"the network learned nothing: loss {float(loss.detach()):.2f}"
    return network.eval()
