"""Decode steps that are checked once and run many times."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from subquad.ops.dispatch import choose
from subquad.ops.errors import ArgumentOutOfRange

STEPS = (
    "attention_step",
    "fir_step",
    "gated_conv_step",
    "gated_linear_step",
    "gated_modal_step",
    "greedy_step",
    "linear_step",
    "modal_step",
)


def prepare(op_name: str, *tensors: Any, **arguments: Any) -> Callable[..., Tensor]:
    """Checks a decode step and chooses its backend once, for all calls on tensors of these shapes.

    Args:
      op_name: a public operator whose name ends in ``_step``.
      tensors: its tensors, as in the call.
      arguments: its keyword arguments, as in the call.

    Returns:
      A function of the first tensor, such as vectors ``[batch, input]``, and of ``residual`` by keyword where
      ``linear_step`` was given one. It gives what the operator would, without a look at its arguments: they must have
      the shapes, types and device of those given here. States, positions, ``active``, pages and the matrices of linear
      layers are those given here, with the values that they have at each call; filters, that is taps, skips, poles and
      frequencies, may keep the values that they had when they were prepared. Call it under ``torch.no_grad`` or
      ``torch.inference_mode``, and outside of ``torch.autocast``.

    Raises:
      ArgumentOutOfRange: there is no such operator, or no backend of that name.
      ShapeMismatch, DtypeMismatch, DeviceMismatch, BackendUnavailable: as the operator.

    Example:
      >>> step = prepare("linear_step", torch.zeros(1, 4), torch.ones(2, 4))
      >>> step(torch.ones(1, 4))
      tensor([[4., 4.]])
    """
    if op_name not in STEPS:
        raise ArgumentOutOfRange(f"op_name is {op_name!r}; accepted: {', '.join(STEPS)}")
    module = importlib.import_module(f"subquad.ops.{op_name}.{op_name}")
    given = inspect.signature(getattr(module, op_name)).bind(*tensors, **arguments)
    given.apply_defaults()
    backend = given.arguments.pop("backend")
    module.check(*given.args, **given.kwargs)
    chosen, _ = choose(module.describe(*given.args, **given.kwargs), backend)
    if chosen is None:
        return module.prepare_in_torch(*given.args, **given.kwargs)
    return partial(_run, chosen.run, given.args[1:], given.kwargs)


def _run(
    run: Callable[..., Tensor], others: tuple[Any, ...], arguments: dict[str, Any], first: Tensor, **changed: Tensor
) -> Tensor:
    return run(first, *others, **{**arguments, **changed})
