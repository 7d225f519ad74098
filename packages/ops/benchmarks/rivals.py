"""What competes with an operator: the same call in another's library, called directly, on inputs laid out for it.

cuDNN's operators are those of nvidia-cudnn-frontend, "subq" is subquadratic-ops-torch. Their short filters correlate,
so their taps are turned before the clock starts. Neither synthesises and applies a filter in one call: their form of a
modal convolution is a chain, which is described here once and timed stage by stage by chain.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from cases import Case
from timing import median_microseconds
from torch import Tensor

from subquad.ops import _vendor_libraries as libraries
from subquad.ops._vendor_backend import BackToBack

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Rival:
    """One competitor of a case."""

    name: str
    prepare: Callable[..., tuple[Tensor, ...]]  # prepare(*case.inputs): its own inputs, outside of the clock
    run: Call  # run(*prepared)

    def whole(self, case: Case) -> Case:
        """The case as this rival does it, from the operator's own inputs: for errors."""
        return replace(case, run=lambda *inputs, backend: self.run(*self.prepare(*inputs)))

    def prepared(self, case: Case) -> Case:
        """The case on this rival's inputs: for times."""
        return replace(case, inputs=self.prepare(*case.inputs), run=lambda *inputs, backend: self.run(*inputs))


def _same(*inputs: Tensor) -> tuple[Tensor, ...]:
    return inputs


def rivals(op: str, case: Case) -> Iterator[Rival]:
    """Yields the competitors of a case that are installed."""
    taps = case.inputs[1].shape[-1]
    if op == "causal_conv":
        if taps <= 256 and libraries.without_cudnn() is None:
            yield Rival("cudnn", _turned_with_offset, cudnn_operator("causal_conv1d"))
        if taps >= 128:
            yield from fft_rivals()
    elif op == "gated_conv":
        if libraries.without_cudnn() is None:
            yield Rival("cudnn", _both_turned, BackToBack.apply)
    elif op == "fft_conv":
        yield from fft_rivals()
    elif op == "fft_conv2d":
        yield from image_rivals(case)
    elif op in ("modal_conv", "gated_modal_conv") and synthesis() is not None:
        rival = faster_fft(case.inputs[0][:, : residues_of(case).shape[0]].contiguous())
        chain = _modal_chain if op == "modal_conv" else _gated_chain
        prepare = _same if op == "modal_conv" else separate_streams
        yield Rival(f"chain, {rival.name}", prepare, chain(rival.run))


def _turned_with_offset(x: Tensor, taps: Tensor) -> tuple[Tensor, ...]:
    return x, taps.flip(-1), x.new_zeros(x.shape[1])


def _both_turned(z: Tensor, projection: Tensor, mixer: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
    return z, projection.flip(-1), mixer.flip(-1), skip


def cudnn_operator(name: str) -> Call:
    """Returns one of the frontend's torch operators."""
    import cudnn

    return getattr(cudnn.ops, name)


def fft_rivals() -> Iterator[Rival]:
    """Yields the causal FFT convolutions, whose first tap is the current sample's."""
    if libraries.without_subquadratic() is None:
        from subquadratic_ops_torch.fft_causal_conv1d import fft_causal_conv1d

        yield Rival("subq fft", _same, fft_causal_conv1d)
    if libraries.without_cudnn_fft() is None:
        yield Rival("cudnn fft", _same, cudnn_operator("fft_causal_conv1d"))


def residues_of(case: Case) -> Tensor:
    """Returns the residues ``[channel, state]`` of a modal case."""
    return case.inputs[2] if len(case.inputs) == 3 else case.inputs[3]


def faster_fft(x: Tensor) -> Rival:
    """Returns whichever library convolves x with as many taps as samples in less time."""
    found = list(fft_rivals())
    if len(found) == 1 or not x.is_cuda:
        return found[0]
    taps = x[0] / x.shape[-1]

    def time(rival: Rival) -> float:
        try:
            with torch.no_grad():
                return median_microseconds(lambda: rival.run(x, taps), "cuda")
        except Exception:  # a competitor may raise anything; the other one is then the faster
            return float("inf")

    return min(found, key=time)


def image_rivals(case: Case) -> Iterator[Rival]:
    """Yields the convolutions of images, centred at ``tap // 2``."""
    if libraries.without_subquadratic() is not None:
        return
    from subquadratic_ops_torch.fft_conv2d import fft_conv2d
    from subquadratic_ops_torch.fused_fft_conv2d import fused_fft_conv2d

    x, taps = case.inputs
    tile = 2 << (max(x.shape[2:]) - 1).bit_length()
    if x.dtype == torch.float32:
        yield Rival("subq 2d", _same, fft_conv2d)
    else:
        yield Rival("subq 2d, in float32", _same, lambda x, w: fft_conv2d(x.float(), w.float()).to(x.dtype))
    if tile <= 128 and max(taps.shape[1:]) <= tile:

        def in_tile(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
            down, right = (tile // 2 - size // 2 for size in w.shape[-2:])
            return x, torch.nn.functional.pad(w, (right, 0, down, 0))

        yield Rival("subq fused 2d", in_tile, lambda x, w: fused_fft_conv2d(x, w, tile))


def synthesis() -> Callable[[Tensor, Tensor, int], Tensor] | None:
    """Returns the vendor's implicit_filter, or None: it needs warp."""
    if libraries.without_subquadratic() is not None:
        return None
    try:
        from subquadratic_ops_torch.implicit_filter import implicit_filter
    except ImportError:
        return None
    return implicit_filter


class _AddToFirstTap(torch.autograd.Function):
    """Adds a skip term to a filter in place: it is one more in its first tap."""

    @staticmethod
    def forward(ctx, taps: Tensor, skip: Tensor) -> Tensor:
        ctx.mark_dirty(taps)
        taps[:, 0] += skip
        return taps

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0][:, 0]


def make_filter(poles: Tensor, residues: Tensor, skip: Tensor | None, length: int, dtype: torch.dtype) -> Tensor:
    """Synthesises the long filter with the vendor's operator, in float32, and rounds it to the stream's type."""
    make = synthesis()
    assert make is not None
    taps = make(poles, residues, length)
    if skip is not None:
        taps = _AddToFirstTap.apply(taps, skip)  # type: ignore[assignment]
    return taps.to(dtype)


def separate_streams(
    z: Tensor, projection: Tensor, poles: Tensor, residues: Tensor, skip: Tensor
) -> tuple[Tensor, ...]:
    """Lays gate, pre-gate and value out one after the other, as a chain wants them, and turns the projection's taps."""
    batch, rows, length = z.shape
    streams = z.reshape(batch, rows // 3, 3, length).transpose(1, 2).reshape(batch, rows, length)
    turned = projection.reshape(rows // 3, 3, -1).transpose(0, 1).reshape(rows, -1).flip(-1)
    return streams, turned, z.new_zeros(rows), poles, residues, skip


def _gated_chain(convolve: Call) -> Call:
    project = cudnn_operator("causal_conv1d")

    def run(z: Tensor, taps: Tensor, offset: Tensor, poles: Tensor, residues: Tensor, skip: Tensor) -> Tensor:
        q, k, v = project(z, taps, offset).chunk(3, dim=1)
        long = make_filter(poles, residues, skip, z.shape[-1], z.dtype)
        return q * convolve(k * v, long)

    return run


def _modal_chain(convolve: Call) -> Call:
    def run(x: Tensor, poles: Tensor, residues: Tensor) -> Tensor:
        return convolve(x, make_filter(poles, residues, None, x.shape[-1], x.dtype))

    return run
