"""Channel-first to length-first and back: the public function."""

from typing import Literal, get_args

from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops.errors import DtypeMismatch, ShapeMismatch

Order = Literal["bhl_to_lbh", "lbh_to_bhl"]


def rearrange(x: Tensor, order: Order = "bhl_to_lbh", *, backend: str = "auto") -> Tensor:
    """Rewrites ``[batch, channel, length]`` as ``[length, batch, channel]``, or back.

    ``y[t, b, c] = x[b, c, t]``

    Args:
      x: three axes in the order that ``order`` starts from; any dtype, any strides.
      order: ``"bhl_to_lbh"`` or ``"lbh_to_bhl"``.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      A contiguous tensor in the dtype of x.

    Raises:
      ShapeMismatch, DtypeMismatch, ArgumentOutOfRange: x has not 3 axes or is no dense tensor, or the order is unknown.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    _checks.one_of("order", order, get_args(Order))
    if not isinstance(x, Tensor):
        raise DtypeMismatch(f"x is a {type(x).__name__} and no tensor; accepted: a tensor of any dtype")
    _checks.dense("x", x)
    if x.dim() != 3:
        raise ShapeMismatch(f"x has {x.dim()} axes {tuple(x.shape)}; accepted: 3")
    chosen, _ = dispatch.choose(describe(x, order), backend)
    if chosen is not None:
        return chosen.run(x, order)
    return (x.permute(2, 0, 1) if order == "bhl_to_lbh" else x.permute(1, 2, 0)).contiguous()


def describe(x: Tensor, order: Order = "bhl_to_lbh") -> dispatch.Call:
    """Describes a call to the dispatcher."""
    batch, channels, length = x.shape if order == "bhl_to_lbh" else (x.shape[1], x.shape[2], x.shape[0])
    return dispatch.Call("rearrange", x.dtype, x.device.type, batch, channels, length, 0, options=frozenset({order}))
