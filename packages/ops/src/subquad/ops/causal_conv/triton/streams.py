"""Loads shared by the convolution kernels: samples with their history, and the tiles of a Toeplitz matrix."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl


@triton.jit
def sample_at(stream, history, t, length, past, first, HISTORY: tl.constexpr):
    """Loads the samples of times ``t`` in float32: the history (``past`` samples) before 0, zeros beyond."""
    inside = (t >= 0) & (t < length)
    value = tl.load(stream + t, mask=inside, other=0.0).to(tl.float32)
    if HISTORY:  # noqa: SIM102 (decided when compiling; the inner one when running)
        if first:
            value += tl.load(history + (t + past), mask=(t < 0) & (t >= -past), other=0.0).to(tl.float32)
    return value


@triton.jit
def project_at(
    stream, history, taps, t, length, first, LAG: tl.constexpr, TAPS: tl.constexpr, HISTORY: tl.constexpr
):  # fmt: skip
    """Applies a short filter at ``t - LAG``: ``sum(taps[k] * stream[t - LAG - k])`` in float32.

    The lags are added up when compiling, so that equal shifts of neighbouring calls become one load.
    """
    total = tl.zeros(t.shape, dtype=tl.float32)
    for k in tl.static_range(TAPS):
        weight = tl.load(taps + k).to(tl.float32)
        total += weight * sample_at(stream, history, t - (LAG + k), length, TAPS - 1, first, HISTORY)
    return total


@triton.jit
def toeplitz_at(taps, diagonal, tap_count, BLOCK: tl.constexpr):
    """Loads the block ``M[j, i] = taps[diagonal * BLOCK + i - j]``, zero outside the taps, in float32."""
    j = tl.arange(0, BLOCK)
    lag = diagonal * BLOCK + j[None, :] - j[:, None]
    return tl.load(taps + lag, mask=(lag >= 0) & (lag < tap_count), other=0.0).to(tl.float32)
