"""The documented names of FFT convolutions, generated from one table over one operator.

A name says what it computes: ``[causal_|circular_|mixed_]fftconv{1,2,3}d_fp32_{bhl|blh|bhl_w_reshape}[_chunked]``. All
take ``(x, kernel, shortcut=None)``; mixed ones ``(x, kernel, periodic, shortcut=None)``; then, as documented,
``use_phase_shift`` of circular and mixed ones, which changes nothing here, and ``chunk_size`` (chunked: 128 channels).
``_blh`` and ``_w_reshape`` take and return channels last. The kernel is channel-first ``[batch or 1, channel, *tap]``,
except with ``_blh``: ``[batch or 1, *tap, channel]``.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from subquad.ops import _checks
from subquad.ops.fft_conv import fft_conv

_CHUNK = 128


def _convolve(
    x: Tensor,
    kernel: Tensor,
    shortcut: Tensor | None = None,
    chunk_size: int | None = None,
    *,
    boundary: str | tuple[str, ...] = "zero",
    causal: bool = False,
    form: str,
    rank: int,
    chunk: int | None,
) -> Tensor:
    _checks.axes_of_space(f"fftconv{rank}d", x, rank)
    _checks.floating("kernel", kernel)
    grid = x if form == "bhl" else x.movedim(-1, 1)
    taps = kernel.movedim(-1, kernel.dim() - x.dim() + 1) if form == "blh" else kernel
    chunk = chunk if chunk_size is None else chunk_size
    y = fft_conv(grid, taps, boundary=boundary, causal=causal, skip=shortcut, chunk_size=chunk)  # type: ignore[arg-type]
    return y if form == "bhl" else y.movedim(1, -1)


def _convolve_circular(
    x: Tensor,
    kernel: Tensor,
    shortcut: Tensor | None = None,
    use_phase_shift: bool = True,
    chunk_size: int | None = None,
    *,
    form: str,
    rank: int,
    chunk: int | None,
) -> Tensor:
    return _convolve(x, kernel, shortcut, chunk_size, boundary="circular", form=form, rank=rank, chunk=chunk)


def _convolve_mixed(
    x: Tensor,
    kernel: Tensor,
    periodic: Sequence[bool],
    shortcut: Tensor | None = None,
    use_phase_shift: bool = True,
    chunk_size: int | None = None,
    *,
    form: str,
    rank: int,
    chunk: int | None,
) -> Tensor:
    boundary = tuple("circular" if wraps else "zero" for wraps in periodic)
    return _convolve(x, kernel, shortcut, chunk_size, boundary=boundary, form=form, rank=rank, chunk=chunk)


def _table() -> dict[str, Callable[..., Tensor]]:
    names: dict[str, Callable[..., Tensor]] = {}
    for suffix, chunk in (("", None), ("_chunked", _CHUNK)):
        for form in ("bhl", "blh", "bhl_w_reshape"):
            for rank in (1, 2, 3):
                shape = f"fftconv{rank}d_fp32_{form}{suffix}"
                names[shape] = partial(_convolve, form=form, rank=rank, chunk=chunk)
                names[f"circular_{shape}"] = partial(_convolve_circular, form=form, rank=rank, chunk=chunk)
                names[f"mixed_{shape}"] = partial(_convolve_mixed, form=form, rank=rank, chunk=chunk)
            causal = partial(_convolve, causal=True, form=form, rank=1, chunk=chunk)
            names[f"causal_fftconv1d_fp32_{form}{suffix}"] = causal
    for name, function in names.items():
        function.__name__ = name  # type: ignore[attr-defined]
        function.__doc__ = _description(name, **function.keywords)  # type: ignore[attr-defined]
    return names


def _description(name: str, form: str, rank: int, chunk: int | None, causal: bool = False) -> str:
    """Says what a name computes, for ``help``."""
    kind = name.partition("_")[0].capitalize() if not name.startswith("fftconv") else "Zero-padded"
    space = ", ".join(("height", "width", "depth")[:rank]) if rank > 1 else "length"
    order = f"[batch, channel, {space}]" if form == "bhl" else f"[batch, {space}, channel]"
    taps = f"[{'tap, ' * rank}channel]" if form == "blh" else f"[channel{', tap' * rank}]"
    centre = "tap 0 meets the current sample" if causal else "the centre is tap // 2 along each axis"
    centre += "; ``periodic`` says of each axis whether it is a circle" if kind == "Mixed" else ""
    pieces = "" if chunk is None else f"; {chunk} channels at a time"
    return (
        f"{kind} convolution of x ``{order}`` with kernel ``{taps}``, or one a sample: {centre}{pieces}. "
        "``shortcut`` ``[channel]`` times x is added. See subquad.ops.fft_conv."
    )


CONVENTION_NAMES = _table()


def __getattr__(name: str) -> Callable[..., Tensor]:
    """Serves every name of the table as an attribute of this module."""
    if name in CONVENTION_NAMES:
        return CONVENTION_NAMES[name]
    raise AttributeError(f"module {__name__} has no {name!r}; CONVENTION_NAMES lists the names it has")


def __dir__() -> list[str]:
    return sorted(CONVENTION_NAMES)
