"""A linear layer whose input and weight are rounded to 8-bit floating point under stored scales."""

from subquad.ops.fp8_linear.e4m3 import E4M3_MAX as E4M3_MAX
from subquad.ops.fp8_linear.e4m3 import RoundedRows as RoundedRows
from subquad.ops.fp8_linear.e4m3 import round_to_e4m3 as round_to_e4m3
from subquad.ops.fp8_linear.e4m3 import row_scales as row_scales
from subquad.ops.fp8_linear.fp8_linear import fp8_linear as fp8_linear
