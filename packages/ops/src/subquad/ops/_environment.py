"""The environment variables of this package, each read once in a process, at the first call that asks.

``SUBQUAD_OPS_CUDA_LIBRARY`` names a file to take as the library of CUDA kernels; ``TRITON_INTERPRET=1`` runs Triton's
kernels on the CPU, slowly, for tests. Set them before the first call; ``settings.cache_clear()`` reads them again.
"""

import functools
import os
from typing import NamedTuple

LIBRARY_VARIABLE = "SUBQUAD_OPS_CUDA_LIBRARY"


class Settings(NamedTuple):
    """What the environment says."""

    cuda_library: str | None  # a file; none where the variable is empty
    triton_interpreted: bool


@functools.cache
def settings() -> Settings:
    """Reads the environment."""
    return Settings(os.environ.get(LIBRARY_VARIABLE) or None, os.environ.get("TRITON_INTERPRET") == "1")
