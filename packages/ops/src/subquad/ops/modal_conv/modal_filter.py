"""The taps of a modal filter, built without a ``[channel, state, length]`` intermediate."""

from torch import Tensor

from subquad.ops import _checks
from subquad.ops.axes import Modes
from subquad.ops.errors import ArgumentOutOfRange
from subquad.ops.modal_conv.powers import pole_powers

_BLOCK = 256


def modal_filter(log_poles: Modes, residues: Modes, length: int) -> Tensor:
    """Builds the taps of a modal filter.

    ``h[c, t] = sum(residues[c, s] * exp(log_poles[c, s] * t) for s in range(state))``

    With ``t = 256 i + j`` the sum is a product of two small matrices of powers, so it takes ``length / 256 + 256``
    exponentials a mode instead of ``length``.

    Args:
      log_poles: ``[channel, state]``, the logarithm of each pole, finite; any float dtype.
      residues: ``[channel, state]``.
      length: number of taps, 0 or more.

    Returns:
      ``[channel, length]`` in float32 (float64 for float64), from float64 powers.

    Raises:
      ShapeMismatch, DtypeMismatch: residues disagree with log_poles.
      ArgumentOutOfRange: length is negative.
    """
    _checks.modes(log_poles, residues)
    if isinstance(length, float) or length < 0:
        raise ArgumentOutOfRange(f"length is {length}; accepted: 0 or more")
    fine = pole_powers(log_poles, min(_BLOCK, length))
    coarse = residues.double()[..., None] * pole_powers(log_poles, -(-length // _BLOCK), _BLOCK)
    taps = (coarse.transpose(1, 2) @ fine).flatten(1)[:, :length]
    return taps.to(_checks.accumulation_dtype(log_poles))
