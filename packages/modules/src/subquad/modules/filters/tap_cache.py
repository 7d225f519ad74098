"""The taps of a filter, kept between calls in eval mode for as long as no parameter changes."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

_KEPT = 4  # sizes of input whose taps are kept at a time


class TapCache:
    """Keeps what a module's parameters were made into, and makes it anew when one of them changed.

    A change is seen by the version that every in-place operation of PyTorch counts (optimiser steps,
    ``load_state_dict``) and by the storage, type and device of the tensors. Nothing is kept in training mode, while
    gradients are recorded, or while a graph is captured.
    """

    def __init__(self) -> None:
        self._versions: Hashable = None
        self._kept: dict[Hashable, Tensor] = {}

    def clear(self) -> None:
        """Forgets everything."""
        self._versions, self._kept = None, {}

    def get(self, module: nn.Module, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Returns what ``make`` makes for ``key``, from the last call if the tensors of ``module`` are as they were."""
        if module.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            self.clear()
            return make()
        tensors = [*module.parameters(), *module.buffers()]
        if any(tensor.is_inference() for tensor in tensors):  # they count no versions
            return make()
        versions = tuple((tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device) for tensor in tensors)
        if versions != self._versions:
            self._versions, self._kept = versions, {}
        key = (key, torch.is_inference_mode_enabled())
        if key not in self._kept:
            while len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = make()
        return self._kept[key]

    def __deepcopy__(self, memo: dict[int, object]) -> "TapCache":
        """A copied module starts with nothing kept."""
        return TapCache()

    def __reduce__(self) -> tuple[type["TapCache"], tuple[()]]:
        """A saved module starts with nothing kept."""
        return TapCache, ()
