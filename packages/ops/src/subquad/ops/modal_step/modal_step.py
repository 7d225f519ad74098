"""One decode step of a modal filter: the public function."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._rows_on_host import each_row, host_filters_rows, in_type_of_sums
from subquad.ops.axes import Active, ModalState, Modes, PerChannel, Step
from subquad.ops.modal_step.modes_of_rows import ModesOfRows


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

    Args:
      x: one sample of each stream, ``[batch, channel]``.
      log_poles: ``[channel, state]``, the logarithm of each pole.
      residues: ``[channel, state]``.
      state: ``[batch, channel, state]``, changed in place; float32 (float64 for float64 streams).
      skip: factor ``[channel]`` of the unfiltered input.
      active: ``[batch]``; the state of a row that is False keeps its values, and its output means nothing.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[batch, channel]`` in the dtype of x. Not differentiable.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    check(x, log_poles, residues, state, skip=skip, active=active)
    chosen, _ = dispatch.choose(describe(x, log_poles, residues, state, skip=skip, active=active), backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(x, log_poles, residues, state, skip=skip, active=active)


def check(
    x: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    state: Tensor,
    *,
    skip: Tensor | None = None,
    active: Tensor | None = None,
) -> None:
    """Raises unless the arguments of a call fit each other."""
    batch, channels = _checks.step(x)
    _checks.modes(log_poles, residues, x, channels)
    _checks.kept("state", state, (batch, channels, log_poles.shape[1]), x)
    _checks.shaped("skip", skip, (channels,), x)
    _checks.row_values("active", active, batch, x, (torch.bool,))


def describe(
    x: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    state: Tensor,
    *,
    skip: Tensor | None = None,
    active: Tensor | None = None,
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    named = {"skip": skip, "active": active}
    return dispatch.Call(
        operator="modal_step",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=x.shape[0],
        channels=x.shape[1],
        length=1,
        taps=log_poles.shape[1],
        options=frozenset(name for name, value in named.items() if value is not None),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    state: Tensor,
    *,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Computes the checked call in plain torch; changes the state in place and returns y."""
    return prepare_in_torch(x, log_poles, residues, state, skip=skip, active=active)(x)


def prepare_in_torch(
    x: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    state: Tensor,
    *,
    skip: Tensor | None,
    active: Tensor | None,
) -> Callable[[Tensor], Tensor]:
    """Returns the checked call as a function of x."""
    wide = _checks.accumulation_dtype(x)
    if state.dtype == wide and host_filters_rows(x, log_poles.shape[1], log_poles, residues, skip):
        rows = torch.zeros(x.shape[0], dtype=torch.int64)  # a modal filter does not ask for positions
        step = each_row(ModesOfRows(log_poles, residues, state, skip=skip), rows, active, (x.shape[1],))
        return in_type_of_sums(step, x)
    return partial(_on_all_rows, log_poles=log_poles, residues=residues, state=state, skip=skip, active=active)


def _on_all_rows(
    x: Tensor, *, log_poles: Tensor, residues: Tensor, state: Tensor, skip: Tensor | None, active: Tensor | None
) -> Tensor:
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
