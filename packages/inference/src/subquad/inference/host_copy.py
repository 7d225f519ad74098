"""Small results on their way from the device to the host."""

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor on the host, which may still be under way.

    From a CUDA device it goes to pinned memory behind what was launched so far, and nobody waits: the tensor itself may
    be let go of at once. A tensor that is on the host already is kept as it is.
    """

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(values.device))  # which may not be the current device

    def read(self) -> Tensor:
        """Waits and returns the values; who keeps them long should copy them out of pinned memory."""
        if self._event is not None:
            self._event.synchronize()
        return self._values
