"""Where and in what type a module creates its parameters, as keyword arguments that are passed on."""

from typing import TypedDict

import torch


class Placement(TypedDict):
    """The ``device`` and ``dtype`` arguments that every module of this package takes."""

    device: torch.device | str | None
    dtype: torch.dtype | None
