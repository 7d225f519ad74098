"""What the decode kernels have in common: waiting for the kernel before, normalising, and a product with a few rows.

A program multiplies a few rows of a weight matrix, read once and in a stream, by one to eight vectors. Its first tile
of weights is on its way before it waits for the kernel that writes those vectors (programmatic dependent launch), so
that the memory is never idle between two kernels.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl
from triton.language.extra import cuda

NO_NORM, NORM_VORTEX, NORM_STANDARD = 0, 1, 2


@triton.jit
def await_previous(DEPENDENT: tl.constexpr):
    """Lets the next kernel start as soon as there is room, then waits until the one before has written all it will."""
    if DEPENDENT:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()


@triton.jit
def await_then_start_next(DEPENDENT: tl.constexpr):
    """Waits first: the next kernel's programs come when those of the kernel before have left room everywhere.

    Behind a kernel whose programs end at different times it matters: what starts early fills the multiprocessors that
    are free first twice, and so does all that follows.
    """
    if DEPENDENT:
        cuda.gdc_wait()
        cuda.gdc_launch_dependents()


@triton.jit
def bring_to_cache(upcoming, rows, row_bytes, lines, DEPENDENT: tl.constexpr):
    """Asks for this program's share of the first lines of every row of the weights that the next kernel reads."""
    if DEPENDENT:
        own = tl.program_id(0) * 128 + tl.arange(0, 128)
        count = tl.num_programs(0) * 128
        for start in range(0, rows * lines, count):
            index = tl.minimum(start + own, rows * lines - 1)
            address = upcoming.to(tl.int64) + (index // lines).to(tl.int64) * row_bytes + (index % lines) * 128
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
            )


@triton.jit
def inverse_root_mean_square(squares, inputs, eps, NORM: tl.constexpr):
    """Returns what a vector whose squares have this sum is multiplied by; ``eps`` is inside or outside the root."""
    mean = squares / inputs
    if NORM == 1:
        return 1.0 / (tl.sqrt(mean) + eps)
    return tl.rsqrt(mean + eps)


@triton.jit
def weight_tile(rows, present, start, column, inputs):
    """Loads columns ``start + column`` of some weight rows, zero where there are none."""
    inside = present[:, None] & (start + column < inputs)[None, :]
    return tl.load(rows[:, None] + (start + column)[None, :], mask=inside, other=0.0, eviction_policy="evict_first")


@triton.jit
def unscaled(sums, weight_scale, output, present, SCALED: tl.constexpr):
    """Divides sums, a column an output, by what the rows of rounded weights were multiplied by."""
    if SCALED:
        sums = sums / tl.load(weight_scale + output, mask=present, other=1.0)[None, :]
    return sums


@triton.jit
def vector_tile(x, scale, start, column, inputs, NORM: tl.constexpr):
    """Loads columns of a vector in float32: as it is, and times the scale of the norm."""
    inside = start + column < inputs
    plain = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
    scaled = plain
    if NORM != 0:
        scaled = plain * tl.load(scale + start + column, mask=inside, other=0.0).to(tl.float32)
    return plain, scaled


@triton.jit
def add_row(sums, part, row, PADDED: tl.constexpr):
    """Adds ``part`` to one row of ``sums``."""
    return sums + tl.where((tl.arange(0, PADDED) == row)[:, None], part[None, :], 0.0)


@triton.jit
def row_products(
    x, scale, rows, present, inputs, eps, first,
    ROWS: tl.constexpr, PADDED: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Returns ``[PADDED, OUT]``: OUT weight rows times ROWS normalised vectors; ``first`` is the first weight tile."""
    column = tl.arange(0, IN)
    vector = tl.arange(0, PADDED)
    sums = tl.zeros([PADDED, OUT], tl.float32)
    squares = tl.zeros([PADDED], tl.float32)
    tile = first
    if ROWS == 1:
        total = tl.zeros([OUT, IN], tl.float32)
        square = tl.zeros([IN], tl.float32)
        for start in range(0, inputs, IN):
            following = weight_tile(rows, present, start + IN, column, inputs)
            plain, scaled = vector_tile(x, scale, start, column, inputs, NORM)
            total += tile.to(tl.float32) * scaled[None, :]
            square += plain * plain
            tile = following
        sums += tl.sum(total, axis=1)[None, :]
        squares += tl.sum(square, axis=0)
    else:
        for start in range(0, inputs, IN):
            following = weight_tile(rows, present, start + IN, column, inputs)
            wide = tile.to(tl.float32)
            for row in tl.static_range(ROWS):
                plain, scaled = vector_tile(x + row * inputs, scale, start, column, inputs, NORM)
                sums = add_row(sums, tl.sum(wide * scaled[None, :], axis=1), row, PADDED)
                if NORM != 0:
                    squares += tl.where(vector == row, tl.sum(plain * plain, axis=0), 0.0)
            tile = following
    if NORM != 0:
        sums = sums * inverse_root_mean_square(squares, inputs, eps, NORM)[:, None]
    return sums
