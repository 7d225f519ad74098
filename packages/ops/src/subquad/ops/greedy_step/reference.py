"""The definition of greedy_step, number by number."""

import math

from torch import Tensor


def greedy_step_reference(logits: Tensor) -> list[tuple[int, float]]:
    """Returns id and log-probability of each row of finite logits."""
    results = []
    for row in logits.double().tolist():
        best = max(row)
        results.append((row.index(best), -math.log(math.fsum(math.exp(value - best) for value in row))))
    return results
