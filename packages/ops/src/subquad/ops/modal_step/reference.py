"""The definition of modal_step: modal_conv over one sample that starts from the given state."""

from torch import Tensor

from subquad.ops.modal_conv.reference import modal_conv_reference


def modal_step_reference(x: Tensor, log_poles: Tensor, residues: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the filtered sample ``[batch, channel]`` and the state after it."""
    y, after = modal_conv_reference(x[..., None], log_poles, residues, initial_state=state)
    return y[..., 0], after
