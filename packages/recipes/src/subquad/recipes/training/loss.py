"""The next-token loss of DNA training: which targets count, and how much."""

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from subquad.recipes.errors import SettingError

LONGEST_TAG = 2048
"""A stretch between two `|` that is longer than this is sequence, not a tag."""

_END_OF_DOCUMENT, _PAD = 0, 1
_PIPE = ord("|")
_TAG_ONLY = np.frombuffer(b"_; ", dtype=np.uint8)


def target_weights(
    ids: Int64[Tensor, "batch length"],
    *,
    lowercase_weight: float = 0.1,
    mask_end_of_document: bool = True,
) -> Float[Tensor, "batch target"]:
    """Weighs the targets `ids[:, 1:]`.

    1 for A, C, G, T; `lowercase_weight` for a, c, g, t; 0 for everything else, among it `@`, `#`, N and whatever stands
    inside a phylogenetic tag `|d__…|`, also where the window cuts the tag. End-of-document and padding tokens weigh 1
    if `mask_end_of_document` is false.

    Args:
      ids: Byte tokens with the first context token in front, int64.
      lowercase_weight: 0 to 1.
      mask_end_of_document: Whether tokens 0 and 1 weigh 0.

    Returns:
      float32, one weight per target; `target = length - 1`.
    """
    weight = torch.zeros(512, dtype=torch.float32, device=ids.device)
    weight[[ord(letter) for letter in "ACGT"]] = 1.0
    weight[[ord(letter) for letter in "acgt"]] = lowercase_weight
    if not mask_end_of_document:
        weight[[_END_OF_DOCUMENT, _PAD]] = 1.0
    weights = weight[ids.clamp(0, 511)]
    if bool((ids == _PIPE).any()):
        inside = np.stack([_inside_tags(row) for row in ids.cpu().numpy()])
        weights = weights.masked_fill(torch.from_numpy(inside).to(ids.device), 0.0)
    return weights[:, 1:]


def next_token_loss(
    logits: Float[Tensor, "batch target vocabulary"],
    ids: Int64[Tensor, "batch length"],
    weights: Float[Tensor, "batch target"],
    *,
    normalization: str = "normalized_weighted",
    divisor: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Averages the weighted cross entropy of the targets, in nats.

    `sum(w * -log p(upper(target))) / n`, with `n = sum(w)` for `"normalized_weighted"` and `n = count(w > 0)` for
    `"weighted"`; 0 where nothing is a target. With the `n` of a larger batch as `divisor`, the losses of its parts, and
    their gradients, add up to those of the whole.

    Args:
      logits: Of any float dtype; the softmax is computed in float32 (float64 for float64).
      ids: The window whose targets are `ids[:, 1:]`.
      weights: From `target_weights`.
      normalization: What the sum is divided by: `"normalized_weighted"` or `"weighted"`.
      divisor: What it is divided by instead, above 0; see `loss_divisor`.

    Raises:
      SettingError: `normalization` is neither.
    """
    nats = target_nats(logits, ids)
    weights = weights.to(nats.dtype)
    if divisor is None:
        divisor = loss_divisor(weights, normalization=normalization)
    return (nats * weights).sum() / divisor.to(nats.dtype)


def loss_divisor(
    weights: Float[Tensor, "batch target"], *, normalization: str = "normalized_weighted"
) -> Float[Tensor, ""]:
    """Returns the `n` of `next_token_loss`, in the type of the weights, above 0 also where nothing is a target.

    Raises:
      SettingError: `normalization` is neither.
    """
    if normalization not in ("normalized_weighted", "weighted"):
        raise SettingError("normalization", normalization, "'normalized_weighted' or 'weighted'")
    count = weights.sum() if normalization == "normalized_weighted" else (weights > 0).sum().to(weights.dtype)
    return count.clamp(min=torch.finfo(torch.float32).tiny)


def target_nats(
    logits: Float[Tensor, "batch target vocabulary"], ids: Int64[Tensor, "batch length"]
) -> Float[Tensor, "batch target"]:
    """Returns `-log p(upper(ids[:, t + 1]) | ids[:, :t + 1])` for each target, in nats, float32 or float64."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(wide.flatten(0, 1), upper_case(ids[:, 1:]).flatten(), reduction="none").view(
        logits.shape[:2]
    )


def upper_case(ids: Int64[Tensor, "batch length"]) -> Int64[Tensor, "batch length"]:
    """Replaces the tokens of a to z by those of A to Z."""
    return torch.where((ids >= ord("a")) & (ids <= ord("z")), ids - 32, ids)


def _inside_tags(row: np.ndarray) -> np.ndarray:
    """Marks the tokens of one window that belong to a tag; every document in it is looked at by itself."""
    inside = np.zeros(len(row), dtype=bool)
    edges = [-1, *np.flatnonzero(row == _END_OF_DOCUMENT).tolist(), len(row)]
    for before, after in itertools.pairwise(edges):
        pipes = [before, *(before + 1 + np.flatnonzero(row[before + 1 : after] == _PIPE)).tolist(), after]
        if len(pipes) == 2:
            continue
        stretches = list(itertools.pairwise(pipes))
        evidence = (i for i, (left, right) in enumerate(stretches) if np.isin(row[left + 1 : right], _TAG_ONLY).any())
        # Stretches take turns; one that holds a letter only tags have fixes whose turn it is. Without one the document
        # begins with sequence.
        first_tag = next(evidence, 1) % 2
        for left, right in stretches[first_tag::2]:
            if right - left - 1 <= LONGEST_TAG:
                inside[left + 1 : right] = True
    return inside
