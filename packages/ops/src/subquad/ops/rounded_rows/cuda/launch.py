"""rounded_rows as a torch custom operator over the CUDA library."""

from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops import _cuda_rows
from subquad.ops._cuda_rows import NORM_CODES
from subquad.ops.dispatch import runs_plainly
from subquad.ops.fp8_linear.e4m3 import E4M3, RoundedRows
from subquad.ops.linear_step.step_norm import StepNorm


def _made(
    x: Tensor, other: Tensor | None, scale: Tensor | None, eps: float, norm: int, kind: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns codes, inverse scales and the sum, if any; ``kind`` is rows, columns, identity or gelu."""
    if kind == "columns":
        return *_cuda_rows.rounded_columns(x), None
    if kind == "rows":
        return _cuda_rows.rounded(x, other, scale, eps, norm)
    assert other is not None, f"{kind} takes two streams"
    return *_cuda_rows.rounded_product(x, other, "gelu" if kind == "gelu" else ""), None


def _launch(
    x: Tensor, other: Tensor | None, scale: Tensor | None, eps: float, norm: int, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the same with an empty sum where there is none."""
    codes, inverse, total = _made(x, other, scale, eps, norm, kind)
    return codes, inverse, x.new_empty(0) if total is None else total


rounded_rows_cuda = torch.library.custom_op("subquad::rounded_rows_cuda", mutates_args=())(_launch)


@rounded_rows_cuda.register_fake
def _(x, other, scale, eps, norm, kind):
    shape = x.transpose(1, 2).shape if kind == "columns" else x.shape
    added = x.shape if kind == "rows" and other is not None else (0,)
    codes = torch.empty(shape, dtype=E4M3, device=x.device)
    return codes, torch.empty(shape[:-1], dtype=torch.float32, device=x.device), x.new_empty(added)


def plainly(
    x: Tensor, other: Tensor | None, *, norm: StepNorm | None, activation: str | None, layout: str
) -> tuple[RoundedRows, Tensor]:
    """Does what rounded_rows' torch form does, past torch's dispatcher."""
    return _run(_made, x, other, norm, activation, layout)


def run(
    x: Tensor, other: Tensor | None, *, norm: StepNorm | None, activation: str | None, layout: str
) -> tuple[RoundedRows, Tensor]:
    """Does what rounded_rows' torch form does."""
    make = _made if runs_plainly(x, other) else torch.ops.subquad.rounded_rows_cuda
    return _run(make, x, other, norm, activation, layout)


def _run(
    make: Callable[..., tuple[Tensor, Tensor, Tensor | None]],
    x: Tensor,
    other: Tensor | None,
    norm: StepNorm | None,
    activation: str | None,
    layout: str,
) -> tuple[RoundedRows, Tensor]:
    kind = activation or ("columns" if layout == "BHL" else "rows")
    scale, eps, code = (None, 0.0, 0) if norm is None else (norm.scale, norm.eps, NORM_CODES[norm.form])
    codes, inverse, total = make(x, other, scale, eps, code, kind)
    return RoundedRows(codes, inverse), x if total is None or kind != "rows" or other is None else total
