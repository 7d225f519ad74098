"""Rounding of rows to E4M3 as a torch custom operator over the Triton kernel."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.fp8_linear.e4m3 import E4M3
from subquad.ops.fp8_linear.triton.kernels import round_rows_kernel

MOST_CHANNELS = 32768  # a row lies in the registers of one program
ALIGNMENT = 16


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _warps(channels: int) -> int:
    return 4 if channels <= 2048 else 8 if channels <= 8192 else 16


def round_rows(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rounds ``[row, channel]``, with zeros up to multiples of 16, and returns it with the inverse of its scales.

    Args:
      x: rows with unit stride along the channels.
      scale: one float32 number; None for one a row.

    Returns:
      The codes, and ``[row, 1]`` inverse scales, empty where ``scale`` was given.
    """
    rows, channels = x.shape
    height, width = _aligned(rows), _aligned(channels)
    codes = torch.empty(height, width, dtype=E4M3, device=x.device)
    inverse = torch.empty((height if scale is None else 0, 1), dtype=torch.float32, device=x.device)
    round_rows_kernel[(height,)](
        x,
        inverse if scale is None else scale,
        codes,
        inverse,
        x.stride(0),
        rows,
        channels,
        width,
        OWN_SCALES=scale is None,
        CHANNELS=triton.next_power_of_2(width),
        num_warps=_warps(width),
    )
    return codes, inverse


round_rows_triton = torch.library.custom_op("subquad::round_rows_triton", mutates_args=())(round_rows)


@round_rows_triton.register_fake
def _(x, scale):
    height, width = _aligned(x.shape[0]), _aligned(x.shape[1])
    codes = torch.empty(height, width, dtype=E4M3, device=x.device)
    return codes, torch.empty((height if scale is None else 0, 1), dtype=torch.float32, device=x.device)
