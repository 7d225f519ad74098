"""What every rank computes for test_exchange.py: values, input gradients and bytes sent of each method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from subquad.modules import StripedHyena2
from subquad.parallel import ContextExchange, SplitShapeError, zigzag_split

BATCH, CHANNELS, HEADS, LENGTH, STATES = 2, 8, 4, 64, 3
VOCABULARY = 512
SIZES: dict[str, Any] = {
    "pattern": "SDH*",
    "hidden_size": 16,
    "num_heads": 4,
    "inner_size": 16,
    "filter_groups": 8,
    "medium_filter_length": 24,
}


class Outcome(NamedTuple):
    """What one rank got: the result, the gradients of the inputs, and the bytes sent in the forward pass."""

    value: Tensor
    gradients: list[Tensor]
    sent_bytes: int


def random(*shape: int, seed: int) -> Tensor:
    """The same float64 numbers on every rank."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fold(x: Tensor) -> Tensor:
    """Folds the two runs of a share [batch, ..., length] into the batch axis, run-major."""
    return torch.cat(x.chunk(2, dim=-1), dim=0)


def share_of(x: Tensor) -> Tensor:
    """This rank's runs of a whole [batch, channel, length], folded, as a leaf."""
    size, rank = dist.get_world_size(), dist.get_rank()
    return fold(zigzag_split(x, size=size, rank=rank)).clone().requires_grad_()


def measure(method: Callable[[ContextExchange], Tensor], leaves: list[Tensor], seed: int) -> Outcome:
    """Runs one method forward and backward against weights that differ by rank."""
    exchange = ContextExchange(dist.group.WORLD)  # type: ignore[arg-type]
    value = method(exchange)
    weight = random(*value.shape, seed=seed + dist.get_rank())
    gradients = torch.autograd.grad((value * weight).sum(), leaves)
    return Outcome(value.detach(), list(gradients), exchange.traffic.sent_bytes)


def every_method() -> dict[str, Outcome]:
    """Measures every method of the exchange once."""
    x = share_of(random(BATCH, CHANNELS, LENGTH, seed=1))
    heads = share_of(random(BATCH, HEADS * 3, LENGTH, seed=2))
    states = share_of(random(BATCH, CHANNELS * STATES, 2 * dist.get_world_size(), seed=3))
    decay = random(CHANNELS, STATES, seed=4).sigmoid().requires_grad_()
    size = dist.get_world_size()
    whole = random(BATCH, CHANNELS // size, LENGTH, seed=10 + dist.get_rank()).requires_grad_()
    outcomes = {
        f"left_halo_{n}": measure(lambda e, n=n: e.left_halo(x, n), [x], 100) for n in (1, 6, LENGTH // (2 * size))
    }
    outcomes["to_channels"] = measure(lambda e: e.to_channels(x), [x], 200)
    outcomes["to_sequence"] = measure(lambda e: e.to_sequence(whole), [whole], 300)
    outcomes["round_trip"] = measure(lambda e: e.to_sequence(e.to_channels(x)), [x], 400)
    as_heads = heads.unflatten(1, (HEADS, 3)).permute(0, 3, 1, 2)
    outcomes["gather_heads"] = measure(lambda e: e.gather_heads(as_heads), [heads], 500)
    outcomes["heads_round_trip"] = measure(lambda e: e.scatter_heads(e.gather_heads(as_heads)), [heads], 600)
    runs = states.unflatten(1, (CHANNELS, STATES))[..., 0]
    outcomes["carry_state"] = measure(lambda e: e.carry_state(decay, runs), [states, decay], 700)
    return outcomes


def refusals() -> list[str]:
    """Returns the texts of what is refused; nothing is sent, so no rank waits for another."""
    exchange = ContextExchange(dist.group.WORLD)  # type: ignore[arg-type]
    texts = []
    for call in (
        lambda: exchange.left_halo(torch.zeros(4, 2, 8), 9),
        lambda: exchange.to_channels(torch.zeros(4, 3, 8)),
        lambda: exchange.to_sequence(torch.zeros(2, 2, 10 * dist.get_world_size() + 1)),
    ):
        try:
            call()
        except SplitShapeError as error:
            texts.append(str(error))
    return texts


def network(**options: Any) -> StripedHyena2:
    """A small network whose filters and states matter, the same on every rank."""
    torch.manual_seed(0)
    model = StripedHyena2(**SIZES, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(0.05 * torch.randn_like(parameter))
    return model


def ids_and_weights(length: int) -> tuple[Tensor, Tensor]:
    """Token ids and what their logits are multiplied with to get a loss."""
    ids = torch.randint(65, 85, (BATCH, length), generator=torch.Generator().manual_seed(8))
    return ids, random(BATCH, length, VOCABULARY, seed=9)


def network_outcome() -> dict[int, tuple[Tensor, dict[str, Tensor]]]:
    """Runs the network on this rank's share, where medium filters fit a run and where they do not."""
    size, rank = dist.get_world_size(), dist.get_rank()
    outcomes = {}
    for length in (256, 64):
        model = network(exchange=ContextExchange(dist.group.WORLD))
        ids, weights = (zigzag_split(t, size=size, rank=rank, axis=1) for t in ids_and_weights(length))
        logits = model(ids)
        (logits * weights).sum().backward()
        outcomes[length] = (
            logits.detach(),
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        )
    return outcomes


def everything() -> dict[str, Any]:
    """All of the above, so that the processes start once."""
    return {"methods": every_method(), "refusals": refusals(), "network": network_outcome()}
