"""Learning-rate schedules as functions of the step alone: nothing to save, nothing to restore.

Each returns the factor of the peak rate at a step, for ``torch.optim.lr_scheduler.LambdaLR``:
``LambdaLR(optimizer, lambda step: warmup_cosine(step, total_steps=1000, warmup_steps=50))``.
"""

import math
from typing import Literal

from subquad.modules.errors import ConfigurationError

Decay = Literal["linear", "cosine", "root"]


def warmup_constant(step: int, *, warmup_steps: int) -> float:
    """Returns ``min(1, (step + 1) / warmup_steps)``: linear to the peak, then the peak.

    Args:
      step: Steps done before this one, from 0.
      warmup_steps: Steps until the peak; 0 for none.

    Raises:
      ConfigurationError: ``warmup_steps`` is negative.
    """
    if warmup_steps < 0:
        raise ConfigurationError(f"warmup_steps is {warmup_steps}; accepted are 0 and more")
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def warmup_cosine(step: int, *, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Returns a warm-up, then ``final + (1 - final) * (1 + cos(pi * progress)) / 2``.

    Args:
      step: Steps done before this one, from 0; after the last the factor stays ``final``.
      total_steps: Steps of the run, the warm-up included.
      warmup_steps: Steps until the peak.
      final: Factor at the end, 0 to 1.

    Raises:
      ConfigurationError: The warm-up is longer than the run, or ``final`` is out of its range.
    """
    _check(total_steps, warmup_steps, 0, final)
    if step < warmup_steps:
        return warmup_constant(step, warmup_steps=warmup_steps)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def warmup_stable_decay(
    step: int, *, total_steps: int, warmup_steps: int, decay_steps: int, final: float = 0.0, decay: Decay = "linear"
) -> float:
    """Returns a warm-up, the peak, and over the last ``decay_steps`` a fall to ``final`` (WSD).

    Args:
      step: Steps done before this one, from 0; after the last the factor stays ``final``.
      total_steps: Steps of the run, warm-up and decay included.
      warmup_steps: Steps until the peak.
      decay_steps: Steps of the fall.
      final: Factor at the end, 0 to 1.
      decay: ``"linear"``, ``"cosine"``, or ``"root"`` for ``1 - sqrt(progress)``.

    Raises:
      ConfigurationError: Warm-up and decay are longer than the run, or an argument is out of its range.

    Source: Hu et al., MiniCPM: unveiling the potential of small language models, 2024.
    """
    _check(total_steps, warmup_steps, decay_steps, final)
    if decay not in ("linear", "cosine", "root"):
        raise ConfigurationError(f"decay is {decay!r}; accepted are 'linear', 'cosine' and 'root'")
    start = total_steps - decay_steps
    if step < start:
        return warmup_constant(step, warmup_steps=warmup_steps)
    progress = min(1.0, (step - start) / max(1, decay_steps))
    if decay == "linear":
        left = 1 - progress
    else:
        left = (1 + math.cos(math.pi * progress)) / 2 if decay == "cosine" else 1 - math.sqrt(progress)
    return final + (1 - final) * left


def _check(total_steps: int, warmup_steps: int, decay_steps: int, final: float) -> None:
    if warmup_steps < 0 or decay_steps < 0 or total_steps < max(1, warmup_steps + decay_steps):
        raise ConfigurationError(
            f"total_steps is {total_steps}, warmup_steps {warmup_steps}, decay_steps {decay_steps}; none may be "
            "negative, and the run must hold the other two"
        )
    if not 0 <= final <= 1:
        raise ConfigurationError(f"final is {final}; accepted are 0 to 1, a share of the peak")
