"""Drawing tokens: filters on the logits, and random numbers that depend on a position and on nothing else.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), written in 64-bit
integer arithmetic of torch so that it runs on the device of the logits. The key is the seed; the counter is the
position in the sequence and the sample's index. No state is carried, so a row draws the same alone and in any batch.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(key: Int[Tensor, "batch 2"], counter: Int[Tensor, "batch 4"]) -> Int[Tensor, "batch 4"]:
    """Returns four 32-bit words a row for a 64-bit key and a 128-bit counter, all as words in int64.

    Source: Salmon et al. 2011, Philox4x32-10; tested against the published known answers.
    """
    k0, k1 = key.unbind(-1)
    c0, c1, c2, c3 = counter.unbind(-1)
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack((c0, c1, c2, c3), dim=-1)


def _multiply(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    product = word * factor  # wraps modulo 2**64, which keeps all 64 bits that are wanted
    return (product >> 32) & _MASK, product & _MASK


def uniforms(
    seeds: Int[Tensor, "batch 2"], samples: Int[Tensor, " batch"], positions: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Returns one float64 in [0, 1) for each row, with 53 random bits.

    Args:
      seeds: int64, the low and the high 32-bit word of each row's seed; see `seed_words`.
      samples: int64, index of the sample among those that share the seed.
      positions: int64, index in the sequence of the token to draw.
    """
    counter = torch.stack(
        (positions & _MASK, (positions >> 32) & _MASK, samples & _MASK, torch.zeros_like(samples)), dim=-1
    )
    words = philox(seeds, counter)
    return (((words[:, 0] >> 5) << 26) + (words[:, 1] >> 6)).double() / float(1 << 53)


def seed_words(seed: int) -> tuple[int, int]:
    """Returns the low and the high 32-bit word of a 64-bit seed."""
    return seed & _MASK, (seed >> 32) & _MASK


def filtered_probabilities(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: Float[Tensor, " batch"],
    top_k: Int[Tensor, " batch"],
    top_p: Float[Tensor, " batch"],
) -> Float[Tensor, "batch vocabulary"]:
    """Returns the float64 law that each row is drawn from: top-k, then temperature, then top-p inside what is left.

    Equal logits rank by id, lowest first. A temperature of 0 puts everything on the first token. A token is dropped by
    top-p when the tokens at or below it sum to no more than ``1 - top_p``.

    Args:
      logits: Finite; any floating type.
      temperature: float64, 0 or more, for each row.
      top_k: int64 for each row; 0 keeps all.
      top_p: float64 in (0, 1] for each row.
    """
    ordered, order = torch.sort(logits.double(), dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    greedy = temperature <= 0
    limit = torch.where(greedy, 1, torch.where(top_k > 0, top_k, logits.shape[-1]))
    scaled = (ordered - ordered[:, :1]) / torch.where(greedy, 1.0, temperature)[:, None]
    law = torch.softmax(scaled.masked_fill(rank >= limit[:, None], -torch.inf), dim=-1)
    at_or_below = law.flip(-1).cumsum(-1).flip(-1)
    dropped = (at_or_below <= 1 - top_p[:, None]) & (top_p[:, None] < 1) & (rank > 0)
    law = law.masked_fill(dropped, 0.0)
    law = law / law.sum(-1, keepdim=True)
    return torch.zeros_like(law).scatter(-1, order, law)


def sample(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: Float[Tensor, " batch"],
    top_k: Int[Tensor, " batch"],
    top_p: Float[Tensor, " batch"],
    uniform: Float[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    """Draws one id a row by inverting the cumulative law at ``uniform``; see `filtered_probabilities`."""
    law = filtered_probabilities(logits, temperature, top_k, top_p)
    cumulative = law.cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp_max(logits.shape[-1] - 1)


def greedy(logits: Float[Tensor, "batch vocabulary"]) -> Int[Tensor, " batch"]:
    """Returns the most likely id of each row, the lowest among equals."""
    best = logits.max(dim=-1, keepdim=True).values
    return (logits == best).int().argmax(dim=-1)


def token_logprobs(logits: Float[Tensor, "batch vocabulary"], ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Returns the float64 natural log-probability of one id a row under the plain model."""
    logits = logits.double()
    return logits.gather(-1, ids[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)


def finite_rows(logits: Float[Tensor, "batch vocabulary"]) -> Bool[Tensor, " batch"]:
    """Returns which rows hold finite numbers only."""
    return torch.isfinite(logits).all(dim=-1)
