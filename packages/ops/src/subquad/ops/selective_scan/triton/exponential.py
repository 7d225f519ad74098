"""exp as exact as float32 allows. ``tl.exp`` goes through the GPU's approximate power of two.

A state of the scan is a product of hundreds of exponentials close to one, and that of a modal decode step a power of
one of them, so that an error of the same sign in each grows with their number.
"""

import triton
import triton.language as tl


@triton.jit
def exact_exp(x):
    """``exp(x)`` of float32 within 1.5 units in the last place, from zero over subnormal numbers to infinity.

    ``exp(x) = 2**turns * exp(r)`` with ``|r| <= log(2) / 2``. log(2) is split in two (Cody and Waite), so that ``r`` is
    exact to its last bit, and ``exp(r)`` is its Taylor polynomial. The power is applied in two halves: one alone would
    leave the exponents of float32 before its product does.
    """
    x = tl.minimum(tl.maximum(x, -104.0, propagate_nan=tl.PropagateNan.ALL), 89.0, propagate_nan=tl.PropagateNan.ALL)
    turns = tl.floor(x * 1.4426950408889634 + 0.5)
    r = x - turns * 0.693359375  # the leading bits of log(2): the product is exact, with or without a fused sum
    r = r + turns * 2.1219444005e-4
    p = 1.0 / 720 + r * (1.0 / 5040)
    p = 1.0 / 120 + r * p
    p = 1.0 / 24 + r * p
    p = 1.0 / 6 + r * p
    p = 0.5 + r * p
    p = 1.0 + r * (1.0 + r * p)
    half = turns.to(tl.int32) >> 1
    return p * _power_of_two(half) * _power_of_two(turns.to(tl.int32) - half)


@triton.jit
def _power_of_two(exponent):
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)
