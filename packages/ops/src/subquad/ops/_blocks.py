"""How many channels a CPU form takes at a time.

An intermediate of many megabytes is fresh memory in every call, and its page faults cost more than the arithmetic on
it; blocks of 2 MiB stay in the cache and are the same memory again. Measured on two cores of a Zen 5, 256 channels and
128 taps, whole against in blocks, milliseconds: 65,536 samples: 176 against 57; 8,192: 8.2 against 5.8.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch

_SAMPLES = 1 << 19
_WIDENED = 1 << 17  # numbers of 16 bits that are widened at a time; the norm of 4,194,304: 3.1 ms, of all at once 6.6
_TRANSPOSED = 512  # samples that are transposed at a time
_SHARED_TRANSFORM = 12288  # samples; threads may share a longer transform, MKL's on 4 threads from some 15,000


def channels_at_once(stream: Tensor) -> int:
    """Returns how many channels of ``[batch, channel, *space]`` to compute together; all of them unless on a CPU.

    All of them, too, where ``torch.compile`` would unroll the blocks into one long graph.
    """
    channels = max(1, stream.shape[1])
    if not _in_blocks(stream):
        return channels
    return min(channels, max(1, _SAMPLES * channels // max(1, stream.numel())))


def fewest_channels(stream: Tensor, longest: int) -> int:
    """Returns how many channels to compute together at least, so that company does not change their last bit.

    MKL computes one transform in another way than several, and where it has few long ones its threads share each.

    Args:
      stream: ``[batch, channel, *space]``.
      longest: samples of the longest axis of the transform.
    """
    if not _in_blocks(stream):
        return 1
    return max(2, torch.get_num_threads() // 2 + 1) if longest > _SHARED_TRANSFORM else 2


def block_sizes(channels: int, most: int, fewest: int) -> list[int]:
    """Cuts channels into blocks of equal sizes, up to one: at most so many where that leaves none with too few."""
    count = max(1, min(-(-channels // most), channels // fewest))
    size, larger = divmod(channels, count)
    return [size + 1] * larger + [size] * (count - larger)


def widened_at_once(x: Tensor, dim: int, *others: Tensor | None) -> int:
    """Returns how many entries of an axis of a 16-bit tensor to widen together; 0 where all are taken at once."""
    size = x.shape[dim]
    if x.dtype == _checks.accumulation_dtype(x) or x.numel() <= _WIDENED or x.device.type != "cpu" or size < 2:
        return 0
    return max(1, _WIDENED * size // x.numel()) if dispatch.runs_plainly(x, *others) else 0


def fill_in_blocks(
    outputs: tuple[Tensor, ...],
    compute: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    size: int,
    dim: int,
) -> None:
    """Writes ``compute(*inputs)`` into the outputs, ``size`` entries of an axis at a time."""
    blocks = zip(*(x.split(size, dim) for x in inputs), strict=True)
    for *targets, block in zip(*(y.split(size, dim) for y in outputs), blocks, strict=True):
        for target, value in zip(targets, compute(*block), strict=True):
            target.copy_(value)


def lengthwise(stream: Tensor) -> Tensor:
    """Returns ``[batch, channel, length]`` with the samples of a channel side by side, as every form on a CPU wants.

    Measured on two cores of an AVX-512 Xeon, 768 channels of 4,096 samples, float32: 2.0 ms, as one copy 9.8, whose
    strides of a power of two miss the cache; left as it is, a gated convolution takes 30 in place of 2.3.
    """
    if stream.device.type != "cpu" or stream.dim() != 3 or stream.stride(2) == 1 or stream.shape[2] < 2:
        return stream
    if not dispatch.runs_plainly(stream):
        return stream.contiguous()
    y = torch.empty(stream.shape, dtype=stream.dtype)
    for target, piece in zip(y.split(_TRANSPOSED, 2), stream.split(_TRANSPOSED, 2), strict=True):
        target.copy_(piece)
    return y


def _in_blocks(stream: Tensor) -> bool:
    return stream.device.type == "cpu" and not torch.compiler.is_compiling()
