"""rounded_rows as a torch custom operator over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.dispatch import runs_plainly
from subquad.ops.fp8_linear.e4m3 import E4M3, RoundedRows
from subquad.ops.linear_step.step_norm import StepNorm
from subquad.ops.rounded_rows.triton.kernels import (
    rounded_columns_kernel,
    rounded_norm_kernel,
    rounded_product_kernel,
)

MOST_CHANNELS = 32768  # a row lies in the registers of one program
COLUMNS_TILE = (32, 128, 4)  # tokens and channels of a tile where the channels come first, and warps


def _rows(x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _warps(channels: int) -> int:
    return 4 if channels <= 2048 else 8 if channels <= 8192 else 16


def launch(
    x: Tensor, other: Tensor | None, scale: Tensor | None, eps: float, vortex: bool, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns codes, inverse scales and, where something was added, the sum.

    ``kind`` is rows, columns, product or gelu.
    """
    if kind == "columns":
        return _columns(x)
    rows, others = _rows(x), None if other is None else _rows(other)
    channels = x.shape[-1]
    codes = torch.empty(x.shape, dtype=E4M3, device=x.device)
    inverse = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    tile, warps = triton.next_power_of_2(channels), _warps(channels)
    if kind != "rows":
        assert others is not None, f"{kind} takes two streams"
        rounded_product_kernel[(len(rows),)](
            rows,
            others,
            codes,
            inverse,
            rows.stride(0),
            others.stride(0),
            channels,
            GELU=kind == "gelu",
            CHANNELS=tile,
            num_warps=warps,
        )
        return codes, inverse, x.new_empty(0)
    total = torch.empty(x.shape if others is not None else (0,), dtype=x.dtype, device=x.device)
    rounded_norm_kernel[(len(rows),)](
        rows,
        rows if others is None else others,
        rows if scale is None else scale,
        codes,
        inverse,
        total,
        rows.stride(0),
        0 if others is None else others.stride(0),
        channels,
        eps,
        ADD=others is not None,
        NORM=scale is not None,
        VORTEX=vortex,
        CHANNELS=tile,
        num_warps=warps,
    )
    return codes, inverse, total


def _columns(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x if x.stride(2) == 1 else x.contiguous()
    batch, channels, length = x.shape
    tokens, tile, warps = COLUMNS_TILE
    codes = torch.empty((batch, length, channels), dtype=E4M3, device=x.device)
    inverse = torch.empty((batch, length), dtype=torch.float32, device=x.device)
    rounded_columns_kernel[(triton.cdiv(length, tokens), batch)](
        x, codes, inverse, x.stride(0), x.stride(1), length, channels, TOKENS=tokens, CHANNELS=tile, num_warps=warps
    )
    return codes, inverse, x.new_empty(0)


rounded_rows_triton = torch.library.custom_op("subquad::rounded_rows_triton", mutates_args=())(launch)


@rounded_rows_triton.register_fake
def _(x, other, scale, eps, vortex, kind):
    shape = x.transpose(1, 2).shape if kind == "columns" else x.shape
    added = x.shape if kind == "rows" and other is not None else (0,)
    codes = torch.empty(shape, dtype=E4M3, device=x.device)
    return codes, torch.empty(shape[:-1], dtype=torch.float32, device=x.device), x.new_empty(added)


def run(
    x: Tensor, other: Tensor | None, *, norm: StepNorm | None, activation: str | None, layout: str
) -> tuple[RoundedRows, Tensor]:
    """Does what rounded_rows' torch form does."""
    kind = "columns" if layout == "BHL" else "rows"
    if activation is not None:
        kind = "gelu" if activation == "gelu" else "product"
    scale = None if norm is None else norm.scale.contiguous()
    eps, vortex = (0.0, False) if norm is None else (norm.eps, norm.form == "vortex")
    call = launch if runs_plainly(x, other) else torch.ops.subquad.rounded_rows_triton
    codes, inverse, total = call(x, other, scale, eps, vortex, kind)
    return RoundedRows(codes, inverse), total if kind == "rows" and other is not None else x
