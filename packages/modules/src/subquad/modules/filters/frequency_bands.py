"""Frequencies for a filter whose channels keep to bands of their own."""

import math
from typing import Literal

from subquad.modules.errors import ConfigurationError


def frequency_bands(
    count: int, *, least: float = 1.0, greatest: float = 12.0, spacing: Literal["linear", "log"] = "linear"
) -> tuple[float, ...]:
    """Spaces frequencies between two, both included, as ``SIRENFilter`` takes them for ``omega_0``.

    Args:
      count: Number of bands; one band has the least.
      least: Periods per unit of position in the first band; positive.
      greatest: Likewise in the last.
      spacing: ``"linear"`` for equal differences, ``"log"`` for equal ratios.

    Raises:
      ConfigurationError: A value is out of its range.
    """
    if count < 1 or not 0 < least <= greatest or spacing not in ("linear", "log"):
        raise ConfigurationError(
            f"count is {count}, least {least}, greatest {greatest}, spacing {spacing!r}; accepted are 1 and more, "
            "0 < least <= greatest, 'linear' and 'log'"
        )
    steps = [index / max(count - 1, 1) for index in range(count)]
    if spacing == "linear":
        return tuple(least + (greatest - least) * step for step in steps)
    return tuple(math.exp(math.log(least) + (math.log(greatest) - math.log(least)) * step) for step in steps)
