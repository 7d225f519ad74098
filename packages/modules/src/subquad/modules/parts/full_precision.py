"""Parameters that stay in full precision when the module around them is cast to a 16-bit type."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def full_precision_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Returns float64 for float64, else float32: the type of filters and statistics in a model of type ``dtype``."""
    return torch.float64 if (dtype or torch.get_default_dtype()) == torch.float64 else torch.float32


class FullPrecisionModule(nn.Module):
    """A module whose tensors named in ``full_precision_names`` are never narrower than float32.

    ``module.to(torch.bfloat16)`` casts the other tensors and leaves these at float32, unrounded; ``module.double()``
    widens them.
    """

    full_precision_names: frozenset[str] = frozenset()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FullPrecisionModule":
        before = {
            name: tensor.detach() for name in self.full_precision_names if (tensor := self._tensor(name)) is not None
        }
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._tensor(name)
            if new is not None and new.dtype in _LOW_PRECISION:
                new.data = old.to(device=new.device, dtype=torch.float32)
        return self

    def _tensor(self, name: str) -> Tensor | None:
        parameter = self._parameters.get(name)
        return self._buffers.get(name) if parameter is None else parameter
