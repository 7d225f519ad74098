"""Inputs of each operator's benchmark, described once: shapes, the minimum of bytes moved, and the call."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad import ops

# name: batch, channels, length. a, b and c are the published shapes of the 1B and 7B models.
SHAPES = {
    "a": (1, 1920, 8192),
    "b": (1, 1920, 131072),
    "c": (8, 1920, 8192),
    "a7": (1, 4096, 8192),
    "c7": (8, 4096, 8192),
    "m": (1, 256, 1048576),
    "cpu": (1, 256, 8192),
    "tiny": (2, 8, 256),
}


@dataclass(frozen=True)
class Case:
    """One call to time."""

    name: str
    inputs: tuple[Tensor, ...]
    run: Callable[..., Tensor]  # run(*inputs, backend)
    bytes: int  # the fewest that any implementation moves
    in_place: bool = False  # changes its inputs, so that its error is taken on copies
    differentiable: bool = True
    backward_bytes: int | None = None  # the fewest that a backward pass moves
    flops: int = 0  # of its matrix products, which are on the tensor cores
    part: Callable[..., tuple[Tensor, ...]] | None = None  # part(*inputs): those of the last few channels alone


FLOPS_PER_SECOND = 790e12  # of bfloat16 matrix products on an H100
_UNCACHED_BYTES = 144 << 20  # nearly three times what an H100's cache holds
_CHECKED_CHANNELS = 32  # enough to measure an error by, few enough for float64


def _last_rows(*arrays: Tensor) -> tuple[Tensor, ...]:
    """What the last channels have of ``[row, ...]`` and ``[batch, row, length]``, where z has three rows a channel."""
    channels = arrays[-1].shape[0]
    count = min(channels, _CHECKED_CHANNELS)
    return tuple(
        x[:1, -count * (x.shape[1] // channels) :] if x.dim() == 3 else x[-count * (x.shape[0] // channels) :]
        for x in arrays
    )


def _random(*shape: int, dtype: torch.dtype, device: str, mean: float = 0.1) -> Tensor:
    return (torch.randn(shape, device=device) + mean).to(dtype)


def cases(op: str, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Iterator[Case]:
    """Yields the cases of one operator at one shape."""
    batch, channels, length = shape
    size, elements = dtype.itemsize, batch * channels * length
    poles = -0.3 * torch.rand(channels, 16, device=device)
    residues = torch.randn(channels, 16, device=device)
    if op == "causal_conv":
        x = _random(batch, channels, length, dtype=dtype, device=device)
        for taps in (3, 4, 7, 32, 128, 256):
            w = _random(channels, taps, dtype=dtype, device=device, mean=0.0) / taps**0.5
            yield Case(
                f"{taps} taps",
                (x, w),
                _causal,
                2 * elements * size,
                backward_bytes=3 * elements * size,
                part=_last_rows,
            )
    elif op in ("gated_conv", "gated_modal_conv"):
        z = _random(batch, 3 * channels, length, dtype=dtype, device=device)
        p = _random(3 * channels, 3, dtype=dtype, device=device, mean=0.0)
        skip = _random(channels, dtype=dtype, device=device)
        if op == "gated_modal_conv":
            yield Case(
                "16 states",
                (z, p, poles, residues, skip),
                _gated_modal,
                4 * elements * size,
                backward_bytes=7 * elements * size,
                part=_last_rows,
            )
            return
        for taps in (7, 128):
            w = _random(channels, taps, dtype=dtype, device=device, mean=0.0) / taps**0.5
            yield Case(
                f"3 + {taps} taps",
                (z, p, w, skip),
                _gated,
                4 * elements * size,
                backward_bytes=7 * elements * size,
                part=_last_rows,
            )
    elif op == "modal_conv":
        x = _random(batch, channels, length, dtype=dtype, device=device)
        yield Case(
            "16 states",
            (x, poles, residues),
            _modal,
            2 * elements * size,
            backward_bytes=3 * elements * size,
            part=_last_rows,
        )
    elif op == "fft_conv":
        x = _random(batch, channels, length, dtype=dtype, device=device)
        w = _random(channels, length, dtype=dtype, device=device, mean=0.0) / length**0.5
        yield Case("length taps", (x, w), _fft, 2 * elements * size + w.numel() * size, part=_last_rows)
    elif op == "fft_conv2d":
        yield from _image_cases(dtype, device)
    elif op in ("rms_norm", "gated_product", "gated_linear", "rotary"):
        yield from _pointwise_cases(op, shape, dtype, device)
    elif op.endswith("_step"):
        yield from (_product_cases if "linear" in op else _step_cases)(op, channels, dtype, device)


def _image_cases(dtype: torch.dtype, device: str) -> Iterator[Case]:
    """Yields images with filters of their size, and with such as reach from edge to edge, of twice their size.

    Sizes are those of the peer's benchmarks and some that are no power of two.
    """
    images = ((8, 768, 14), (8, 384, 32), (4, 384, 56), (4, 384, 64), (4, 384, 96), (4, 384, 128), (2, 192, 224))
    reaching = ((256, 384, 14), (8, 768, 56), (4, 384, 96), (2, 192, 196))
    small = ((1, 4, 14), (1, 4, 32))
    sizes = [(*image, image[2]) for image in (images if device == "cuda" else small)]
    sizes += [(*image, 2 * image[2]) for image in (reaching if device == "cuda" else small[:1])]
    for batch, channels, side, taps in sizes:
        x = _random(batch, channels, side, side, dtype=dtype, device=device)
        w = _random(channels, taps, taps, dtype=dtype, device=device, mean=0.0) / taps
        moved = (2 * x.numel() + w.numel()) * dtype.itemsize
        back = moved + (x.numel() + w.numel()) * dtype.itemsize
        name = f"{batch} x {channels} x {side}²" + (f", {taps}² taps" if taps != side else "")
        yield Case(name, (x, w), _image, moved, backward_bytes=back, part=_last_channels)


def _last_channels(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """What the last channels of images have."""
    return x[:1, -_CHECKED_CHANNELS:], w[-_CHECKED_CHANNELS:]


def _step_cases(op: str, channels: int, dtype: torch.dtype, device: str) -> Iterator[Case]:
    """Yields the cases of the decode steps, by the number of rows that step together."""
    size = dtype.itemsize
    poles, residues = -0.3 * torch.rand(channels, 16, device=device), torch.randn(channels, 16, device=device)
    for rows in (1, 8, 32, 128):
        x = _random(rows, channels, dtype=dtype, device=device)
        if op == "modal_step":
            state = torch.randn(rows, channels, 16, device=device)
            moved = 2 * state.numel() * 4 + 2 * x.numel() * size + 2 * poles.numel() * 4
            yield Case(f"batch {rows}, 16 states", (x, poles, residues, state), _modal_step, moved, True, False)
            continue
        position = torch.arange(rows, device=device)
        for taps in (3, 7, 128):
            w = _random(channels, taps, dtype=dtype, device=device)
            ring = _random(rows, channels, taps - 1, dtype=dtype, device=device)
            moved = (ring.numel() + 3 * x.numel() + w.numel()) * size
            yield Case(f"batch {rows}, {taps} taps", (x, w, ring, position), _fir_step, moved, True, False)


def _product_cases(op: str, channels: int, dtype: torch.dtype, device: str) -> Iterator[Case]:
    """Yields 16-bit projections, and gated pairs, of a few vectors, with as many matrices as no cache holds."""
    if dtype.itemsize != 2:
        return
    outputs = 3 * channels if op == "linear_step" else -(-channels * 8 // 3 // 256) * 256
    pair = 1 if op == "linear_step" else 2
    for rounded in (False, True):
        stored = outputs * channels * (1 if rounded else dtype.itemsize)
        count = -(-_UNCACHED_BYTES // stored) if device == "cuda" else 2
        matrices = [
            _random(outputs, channels, dtype=dtype, device=device, mean=0.0) * channels**-0.5
            for _ in range(-(-count // pair) * pair)
        ]
        scales = [ops.row_scales(matrix)[:, 0].contiguous() for matrix in matrices] if rounded else []
        if rounded:
            pairs = zip(matrices, scales, strict=True)
            matrices = [ops.round_to_e4m3(matrix, scale[:, None]) for matrix, scale in pairs]
        for rows in (1, 8, 32, 64):
            x, scale = (_random(*shape, dtype=dtype, device=device) for shape in ((rows, channels), (channels,)))
            kind = "one byte" if rounded else "two bytes"
            name = f"{rows} vectors, {len(matrices)} x {outputs} x {channels}, {kind}"
            run = _linear_steps if pair == 1 else _gated_linear_steps
            yield Case(name, (x, scale, *matrices, *scales), run, len(matrices) * stored, differentiable=False)


def _pointwise_cases(op: str, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Iterator[Case]:
    """Yields the cases of the operators around matrix products; the inner size of an MLP is 8/3 of the channels."""
    batch, channels, length = shape
    size, elements = dtype.itemsize, batch * channels * length
    if op == "rms_norm":
        x, addend = (_random(batch, length, channels, dtype=dtype, device=device) for _ in range(2))
        scale = _random(channels, dtype=dtype, device=device, mean=1.0)
        yield Case("vortex", (x, scale), _rms_norm, 2 * elements * size)
        yield Case("vortex, of a sum", (x, addend, scale), _rms_norm_of_sum, 4 * elements * size)
    elif op == "gated_product":
        inner = -(-channels * 8 // 3 // 64) * 64
        x = _random(batch, length, 2 * inner, dtype=dtype, device=device)
        for activation in (None, "gelu"):
            yield Case(
                activation or "bilinear",
                (x,),
                lambda x, backend, activation=activation: ops.gated_product(x, activation=activation, backend=backend),
                3 * batch * length * inner * size,
            )
    elif op == "gated_linear" and size == 2:
        inner = -(-channels * 8 // 3 // 256) * 256
        x = _random(batch, length, channels, dtype=dtype, device=device, mean=0.0)
        weights = [_random(inner, channels, dtype=dtype, device=device, mean=0.0) * channels**-0.5 for _ in range(2)]
        moved = (x.numel() + 2 * weights[0].numel() + batch * length * inner) * size
        flops = 4 * batch * length * channels * inner
        yield Case("bilinear", (x, *weights), _gated_linear, moved, flops=flops)
    elif op == "rotary" and channels % 128 == 0:
        qkv = _random(batch, length, channels // 128, 3, 128, dtype=dtype, device=device)
        position = torch.arange(length, device=device)[None] % 1024  # so far float32 angles agree with float64 ones
        frequencies = 1e4 ** -(torch.arange(0, 128, 2, device=device) / 128)
        yield Case("queries", (qkv[:, :, :, 0], position, frequencies), _rotary, 2 * elements * size)
        caches = [torch.empty_like(qkv[:, :, :, 0].contiguous()) for _ in range(2)]
        inputs = (qkv, position, frequencies, *caches)
        yield Case("into a cache", inputs, _rotary_into, 6 * elements * size, True, False)


OPERATORS = (
    "causal_conv",
    "gated_conv",
    "gated_modal_conv",
    "modal_conv",
    "fft_conv",
    "fft_conv2d",
    "fir_step",
    "modal_step",
    "linear_step",
    "gated_linear_step",
    "rms_norm",
    "gated_product",
    "gated_linear",
    "rotary",
)


def _causal(x: Tensor, w: Tensor, backend: str) -> Tensor:
    return ops.causal_conv(x, w, backend=backend)


def _gated(z: Tensor, p: Tensor, w: Tensor, skip: Tensor, backend: str) -> Tensor:
    return ops.gated_conv(z, p, w, skip=skip, backend=backend)


def _gated_modal(z: Tensor, p: Tensor, poles: Tensor, residues: Tensor, skip: Tensor, backend: str) -> Tensor:
    return ops.gated_modal_conv(z, p, poles, residues, skip=skip, backend=backend)


def _modal(x: Tensor, poles: Tensor, residues: Tensor, backend: str) -> Tensor:
    return ops.modal_conv(x, poles, residues, backend=backend)


def _gated_linear(x: Tensor, gate: Tensor, value: Tensor, backend: str) -> Tensor:
    return ops.gated_linear(x, gate, value, backend=backend)


def _fft(x: Tensor, w: Tensor, backend: str) -> Tensor:
    return ops.fft_conv(x, w, causal=True, backend=backend)


def _image(x: Tensor, w: Tensor, backend: str) -> Tensor:
    return ops.fft_conv(x, w, backend=backend)


def _fir_step(x: Tensor, w: Tensor, ring: Tensor, position: Tensor, backend: str) -> Tensor:
    return ops.fir_step(x, w, ring, position, backend=backend)


def _modal_step(x: Tensor, poles: Tensor, residues: Tensor, state: Tensor, backend: str) -> Tensor:
    return ops.modal_step(x, poles, residues, state, backend=backend)


def _weights(x: Tensor, arrays: tuple[Tensor, ...]) -> list[Tensor | ops.RoundedWeight]:
    """Returns the matrices among these, with the factors of their rows, which follow them, where they have any."""
    count = sum(array.dim() == 2 for array in arrays)
    if len(arrays) == count:
        return list(arrays)
    pairs = zip(arrays[:count], arrays[count:], strict=True)
    if x.dtype == torch.float64:
        return [codes / scale[:, None] for codes, scale in pairs]
    return [ops.RoundedWeight(codes, scale) for codes, scale in pairs]


def _linear_steps(x: Tensor, scale: Tensor, *arrays: Tensor, backend: str) -> Tensor:
    norm = ops.StepNorm(scale, 1e-6, "vortex")
    return [ops.linear_step(x, weight, norm=norm, backend=backend) for weight in _weights(x, arrays)][-1]


def _gated_linear_steps(x: Tensor, scale: Tensor, *arrays: Tensor, backend: str) -> Tensor:
    norm, weights = ops.StepNorm(scale, 1e-6, "vortex"), _weights(x, arrays)
    pairs = zip(weights[::2], weights[1::2], strict=True)
    return [ops.gated_linear_step(x, gate, value, norm=norm, backend=backend) for gate, value in pairs][-1]


def _rms_norm(x: Tensor, scale: Tensor, backend: str) -> Tensor:
    return ops.rms_norm(x, scale, form="vortex", backend=backend)


def _rms_norm_of_sum(x: Tensor, addend: Tensor, scale: Tensor, backend: str) -> Tensor:
    return ops.rms_norm_of_sum(x, addend, scale, form="vortex", backend=backend)[0]


def _rotary(x: Tensor, position: Tensor, frequencies: Tensor, backend: str) -> Tensor:
    return ops.rotary(x, position, frequencies, backend=backend)


def _rotary_into(
    qkv: Tensor, position: Tensor, frequencies: Tensor, keys: Tensor, values: Tensor, backend: str
) -> Tensor:
    return ops.rotary_into(qkv, position, frequencies, keys, values, backend=backend)
