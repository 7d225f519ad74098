"""Counts the arithmetic that PyTorch does while a mixer or a network runs, with scans as their definitions say."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from subquad.ops import dispatch
from subquad.ops.causal_conv.reference import causal_conv_reference
from subquad.ops.modal_conv.reference import modal_conv_reference
from subquad.ops.selective_scan.reference import selective_scan_reference

aten = torch.ops.aten
_ONE_A_RESULT = {
    aten.add, aten.sub, aten.mul, aten.div, aten.add_, aten.sub_, aten.mul_, aten.div_, aten.rsub, aten.neg,
    aten.exp, aten.log, aten.sin, aten.cos, aten.sqrt, aten.rsqrt, aten.pow, aten.reciprocal, aten.abs,
    aten.gelu, aten.silu, aten.relu, aten.sigmoid, aten.softplus, aten.maximum, aten.clamp, aten.clamp_min,
    aten.addcmul_,
}  # fmt: skip
_ONE_AN_INPUT = {aten.sum, aten.mean, aten.cumsum, aten.linalg_vector_norm}
_COMPLEX_PRODUCT = 6
_IN_PLACE = {aten.addmm_: aten.addmm}  # which the registry knows only with a result of its own


class OperationCounter(TorchDispatchMode):
    """Adds up operations: a multiply-add is two, a real transform of n points ``2.5 * n * log2(n)``."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operator = _IN_PLACE.get(func.overloadpacket, func.overloadpacket)
        if operator in flop_registry:
            self.total += flop_registry[operator](*args, **(kwargs or {}), out_val=result)
        elif operator is aten._scaled_dot_product_flash_attention_for_cpu:
            query, key = args[:2]
            self.total += 4 * query.numel() * key.shape[-2]
        elif operator in (aten._fft_r2c, aten._fft_c2r):
            real = args[0] if operator is aten._fft_r2c else result
            self.total += 2.5 * real.numel() * math.log2(math.prod(real.shape[axis] for axis in args[1]))
        elif operator in _ONE_A_RESULT and (result.is_floating_point() or result.is_complex()):
            complex_product = operator in (aten.mul, aten.mul_) and result.is_complex()
            self.total += result.numel() * (_COMPLEX_PRODUCT if complex_product else 1)
        elif operator in _ONE_AN_INPUT:
            self.total += args[0].numel()
        return result


def by_definition(call: dispatch.Call, backend: str) -> tuple[dispatch.Implementation | None, dispatch.Explanation]:
    """Stands in for ``dispatch.choose``: short and recurrent filters run as their definitions say."""
    run = {"causal_conv": _causal_conv, "modal_conv": _modal_conv, "selective_scan": _selective_scan}.get(call.operator)
    explanation = dispatch.Explanation("definition", "the operations of the definition are counted")
    if run is None:
        return None, explanation
    return dispatch.Implementation("definition", call.operator, lambda _: None, run), explanation


def count(run: Callable[[], Tensor]) -> float:
    """Counts the operations of a call."""
    with torch.no_grad(), OperationCounter() as counter:
        run()
    return counter.total


def _causal_conv(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    assert activation is None
    y = causal_conv_reference(x, taps, initial_state)
    y = y if bias is None else y + bias[:, None]
    return (y if skip is None else y + skip[:, None] * x), x[..., :0]


def _modal_conv(
    x: Tensor, log_poles: Tensor, residues: Tensor, *, skip: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    return modal_conv_reference(x, log_poles, residues, skip, initial_state)


def _selective_scan(*arguments: Tensor, skip: Tensor | None, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    return selective_scan_reference(*arguments, skip=skip, initial_state=initial_state)
