"""Which calls the vendor's libraries take, and how ours become theirs.

Their short convolutions correlate (the last tap is the current sample); their FFT convolutions take tap 0 first, as
ours do. Calls that nothing traces or records go to cuDNN's functions directly: that saves the time of a custom
operator, which is that of the kernel.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from subquad.ops import _vendor_libraries as libraries
from subquad.ops._capability import capability
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.dispatch import Call, Implementation, runs_plainly
from subquad.ops.gated_conv.gated_conv import GatedConvState
from subquad.ops.gated_conv.projection import project_and_gate

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FEWEST_SHORT, _MOST_SHORT, _MOST_PROJECTION = 2, 256, 32  # taps of cuDNN's direct kernels
_MOST_MEDIUM, _MOST_LONG = 16384, 1 << 24  # taps of an FFT in one kernel and in several
_LARGEST_SIDE, _LARGEST_FUSED_SIDE = 2048, 32  # of an image; up to 64 in one kernel, but two are then faster
_MEASURED_ON = (9, 0)  # the compute capability on which "auto" may choose what follows
_CUDNN_DTYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 9}  # cudnnDataType_t
_CUDNN_ACTIVATIONS = {"identity": 0, "silu": 1}


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Says why neither library can run here, or None."""
    problems = (libraries.without_cudnn(), libraries.without_subquadratic())
    return None if None in problems else "; ".join(dict.fromkeys(p for p in problems if p is not None))


def missing() -> tuple[str, ...]:
    """Says what else could be installed, where one of the libraries is usable."""
    found = {
        "causal_conv of up to 256 taps, gated_conv": libraries.without_cudnn(),
        "fft_conv over two axes or not causal": libraries.without_subquadratic(),
    }
    return tuple(f"no {what}: {problem}" for what, problem in found.items() if problem is not None)


@torch.compiler.assume_constant_result
def _without_cudnn() -> str | None:
    return libraries.without_cudnn()


@torch.compiler.assume_constant_result
def _without_subquadratic() -> str | None:
    return libraries.without_subquadratic()


@torch.compiler.assume_constant_result
def _without_fft() -> str | None:
    """Says why no library has a causal FFT convolution, or None."""
    problem = libraries.without_subquadratic()
    return None if problem is None or libraries.without_cudnn_fft() is None else problem


def _common_refusal(call: Call, fewest: int, most: int) -> str | None:
    if call.device != "cuda":
        return f"the tensors are on {call.device}; accepted: cuda"
    if call.dtype not in _DTYPES:
        return f"dtype {str(call.dtype)[6:]}; accepted: {', '.join(str(d)[6:] for d in _DTYPES)}"
    if not fewest <= call.taps <= most:
        return f"{call.taps} taps; accepted: {fewest} to {most}"
    return "the call is empty" if call.batch * call.channels * call.length == 0 else None


def _causal_refusal(call: Call) -> str | None:
    short = call.taps <= _MOST_SHORT
    taken = call.options - ({"bias", "activation"} if short else set())
    if taken:
        return f"{', '.join(sorted(taken))}; the vendor's operator has no such argument"
    return (_without_cudnn() if short else _without_fft()) or _common_refusal(call, _FEWEST_SHORT, _MOST_LONG)


def _gated_refusal(call: Call) -> str | None:
    taken = call.options - {"skip"}
    if taken:
        return f"{', '.join(sorted(taken))}; the vendor's operator always gates and starts from zeros"
    if not _FEWEST_SHORT <= call.projection_taps <= _MOST_PROJECTION:
        return f"{call.projection_taps} projection taps; accepted: {_FEWEST_SHORT} to {_MOST_PROJECTION}"
    return _without_cudnn() or _common_refusal(call, _FEWEST_SHORT, _MOST_SHORT)


def _fft_refusal(call: Call) -> str | None:
    if "circular" in call.options or "3d" in call.options:
        return "a circular boundary or three axes; the vendor's operators have neither"
    if "2d" in call.options:
        return _image_refusal(call)
    if "per-sample" in call.options:
        return "a filter a sample over one axis; the vendor's operator has none"
    if "causal" in call.options:
        return _without_fft() or _common_refusal(call, 1, _MOST_LONG)
    return _without_subquadratic() or _common_refusal(call, 1, _MOST_MEDIUM)


def _image_refusal(call: Call) -> str | None:
    if any(side > _LARGEST_SIDE for side in call.space):
        return f"an image of {' x '.join(map(str, call.space))}; accepted: sides up to {_LARGEST_SIDE}"
    if any(taps > 2 * side for taps, side in zip(call.space_taps, call.space, strict=True)):
        sizes = " x ".join(map(str, call.space_taps)), " x ".join(map(str, call.space))
        return f"{sizes[0]} taps over {sizes[1]}; accepted: up to twice the side"
    return _without_subquadratic() or _common_refusal(call, 1, 2 * _LARGEST_SIDE)


def _unmeasured_device(index: int) -> str | None:
    found = capability(index)
    if found == _MEASURED_ON:
        return None
    return f"faster by measurement on compute capability 9.0 alone; the GPU has {found[0]}.{found[1]}"


def _unmeasured(call: Call) -> str | None:
    """Says why "auto" should not take a call from torch, or None."""
    if call.taps > _MOST_MEDIUM and call.dtype == torch.float32:
        return f"{call.taps} taps in float32, whose error would be 5 times torch's; accepted: up to {_MOST_MEDIUM}"
    if call.taps > _MOST_MEDIUM and call.dtype == torch.float16:
        return f"{call.taps} taps in float16, whose spectra could overflow; accepted: up to {_MOST_MEDIUM}"
    return _unmeasured_device(call.index)


def _rows(taps: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Gives every channel its own row, in the type of the stream."""
    rows = taps if taps.shape[0] == channels else taps.repeat_interleave(channels // taps.shape[0], dim=0)
    return rows.to(dtype)


def _short_conv(x: Tensor, taps: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    weight = _rows(taps, x.shape[1], x.dtype).flip(-1)
    offset = x.new_zeros(x.shape[1]) if bias is None else bias.to(x.dtype).contiguous()
    if not runs_plainly(x, taps, bias):
        return torch.ops.cudnn.causal_conv1d_fwd_primitive(x.contiguous(), weight, offset, activation)
    stream, y = x.contiguous(), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        libraries.cudnn().causal_conv1d_forward(
            torch.cuda.current_stream().cuda_stream,
            *(t.data_ptr() for t in (stream, weight, offset, y)),
            *x.shape,
            weight.shape[1],
            _CUDNN_DTYPES[x.dtype],
            _CUDNN_ACTIVATIONS[activation],
        )
    return y


def _causal_conv(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if taps.shape[1] <= _MOST_SHORT:
        y = _short_conv(x, taps, bias, activation or "identity")
    else:
        y = _causal_fft(x, _rows(taps, x.shape[1], x.dtype))
    return y, next_history(x, taps.shape[1] - 1, initial_state)


class BackToBack(torch.autograd.Function):
    """cuDNN's gated convolution with its gradients.

    cuDNN's own autograd waits for the GPU to see whether the stream before the last gate has a gradient, which a CUDA
    graph cannot record; here nobody gets that stream.
    """

    @staticmethod
    def forward(ctx, z: Tensor, projection: Tensor, mixer: Tensor, factor: Tensor) -> Tensor:
        """Computes the gated stream from z and filters that correlate."""
        ungated, y = torch.ops.cudnn.b2b_causal_conv1d_fwd_primitive(z, projection, mixer, factor)
        ctx.save_for_backward(z, projection, mixer, factor, ungated)
        return y

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Returns the gradients of z, of both filters and of the skip factor."""
        upstream = gradients[0].contiguous()
        return tuple(torch.ops.cudnn.b2b_causal_conv1d_bwd_primitive(upstream, *ctx.saved_tensors))


def _gated_output(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
) -> Tensor:
    batch, rows, length = z.shape
    channels = rows // 3
    factor = z.new_zeros(channels) if skip is None else skip.to(z.dtype).contiguous()
    projection = _rows(projection_taps, rows, z.dtype).flip(-1)
    mixer = _rows(mixer_taps, channels, z.dtype).flip(-1)
    if not runs_plainly(z, projection_taps, mixer_taps, skip):
        return BackToBack.apply(z.contiguous(), projection, mixer, factor)  # type: ignore[no-any-return]
    stream, both = z.contiguous(), z.new_empty(2, batch, channels, length)  # before the last gate, and after it
    with torch.cuda.device_of(z):
        libraries.cudnn().b2b_causal_conv1d_forward(
            torch.cuda.current_stream().cuda_stream,
            *(t.data_ptr() for t in (stream, projection, mixer, factor, *both)),
            batch,
            channels,
            length,
            projection.shape[1],
            mixer.shape[1],
            _CUDNN_DTYPES[z.dtype],
        )
    return both[1]


def _gated_conv(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
) -> tuple[Tensor, GatedConvState]:
    y = _gated_output(
        z,
        projection_taps,
        mixer_taps,
        skip=skip,
        pregate=pregate,
        postgate=postgate,
        initial_state=initial_state,
    )
    past, before = mixer_taps.shape[1] - 1, projection_taps.shape[1] - 1
    recent = z[..., max(0, z.shape[-1] - past - before) :]
    _, g, _ = project_and_gate(recent, projection_taps, pregate, None)
    return y, GatedConvState(next_history(z, before, None), next_history(g, past, None).to(z.dtype))


def _causal_fft(x: Tensor, taps: Tensor) -> Tensor:
    """Filters with taps ``[channel, tap]`` of the stream's type."""
    if _without_subquadratic() is None:
        from subquadratic_ops_torch.fft_causal_conv1d import fft_causal_conv1d  # pyright: ignore[reportMissingImports]
    else:
        from cudnn.ops.fft_causal_conv1d import fft_causal_conv1d  # pyright: ignore[reportMissingImports]
    return fft_causal_conv1d(x, taps)


def _centred_fft(x: Tensor, taps: Tensor) -> Tensor:
    from subquadratic_ops_torch.fft_conv1d import fft_conv1d  # pyright: ignore[reportMissingImports]

    return fft_conv1d(x, taps)


def _image_conv(x: Tensor, taps: Tensor) -> Tensor:
    """Filters images ``[batch, channel, height, width]``, in one kernel where the vendor has one that is faster."""
    from subquadratic_ops_torch.fft_conv2d import fft_conv2d  # pyright: ignore[reportMissingImports]
    from subquadratic_ops_torch.fused_fft_conv2d import fused_fft_conv2d  # pyright: ignore[reportMissingImports]

    side = max(x.shape[2:])
    tile = 2 << (side - 1).bit_length()
    if side > _LARGEST_FUSED_SIDE or max(taps.shape[2:]) > tile:
        return fft_conv2d(x.float(), taps.float()).to(x.dtype)
    padding: list[int] = []
    for size in (taps.shape[3], taps.shape[2]):  # the centre of the filter is that of the tile
        before = tile // 2 - size // 2
        padding += (before, tile - size - before)
    return fused_fft_conv2d(x, pad(taps, padding), tile)


def _fft_conv(x: Tensor, taps: Tensor, *, boundary: tuple[str, ...], causal: bool, skip: Tensor | None) -> Tensor:
    kernel = taps.to(x.dtype)
    if x.dim() == 4:
        y = _image_conv(x, kernel)
    elif causal:
        y = _causal_fft(x, kernel.squeeze(0))
    else:
        y = _centred_fft(x, kernel.squeeze(0))
    return y if skip is None else torch.addcmul(y, skip.to(x.dtype).view(-1, *[1] * (x.dim() - 2)), x)


def implementations() -> tuple[Implementation, ...]:
    """Lists the operators that the vendor's libraries can take; to be called only where unavailable() is None."""
    return (
        Implementation("vendor", "causal_conv", _causal_refusal, _causal_conv, unmeasured=_unmeasured),
        Implementation("vendor", "fft_conv", _fft_refusal, _fft_conv, unmeasured=_unmeasured),
        Implementation("vendor", "gated_conv", _gated_refusal, _gated_conv, _gated_output),
    )
