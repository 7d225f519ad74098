"""One decode step of a modal filter: the public function."""

import torch

from subquad.ops import _checks
from subquad.ops.axes import Active, ModalState, Modes, PerChannel, Step


def modal_step(
    x: Step,
    log_poles: Modes,
    residues: Modes,
    state: ModalState,
    *,
    skip: PerChannel | None = None,
    active: Active | None = None,
    backend: str = "auto",
) -> Step:
    """Advances the state by one sample, in place, and returns the filtered sample.

    ``state = exp(log_poles) * state + x``; ``y = sum(residues * state) + skip * x``
    """
    batch, channels = x.shape
    _checks.modes(log_poles, residues, x, channels)
    _checks.shaped("state", state, (batch, channels, log_poles.shape[1]), x)
    _checks.shaped("skip", skip, (channels,), x)
    wide = _checks.accumulation_dtype(x)
    current = x.to(wide)
    poles = torch.exp(log_poles.double()).to(wide)
    advanced = poles * state.to(wide) + current[..., None]
    y = (residues.to(wide) * advanced).sum(dim=-1)
    if skip is not None:
        y = y + skip.to(wide) * current
    kept = advanced.to(state.dtype)
    state.copy_(kept if active is None else torch.where(active[:, None, None], kept, state))
    return y.to(x.dtype)
