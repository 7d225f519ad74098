"""Which torch form a causal filter takes, forward and backward, and the autograd function that joins them.

Measured on an AVX-512 Xeon with oneDNN and MKL. One core, 64 channels of 8,192 samples, million samples a second: 7
taps: direct 740; 64: direct 390, Toeplitz 230, FFT 170; 128: overlap-save 230-250, direct 170, Toeplitz 160, FFT
150-170; 512: overlap-save 186, FFT 143, direct 43. Two cores, 256 channels, milliseconds: 128 taps over 2,048
samples: direct 1.3, FFT 1.5, overlap-save 1.1-1.3; over 8,192: overlap-save 3.3, FFT 7.5. The gradient of the taps is
a Toeplitz product up to 256 taps (53 against 17 for oneDNN's own at 64 taps, forward and backward together). On two
cores of a Zen 5, 256 channels, 128 taps: over 2,048 samples direct 1.3, FFT 2.0; over 8,192 overlap-save in blocks of
channels 5.8, direct 12.7, one FFT 24. CUDA follows the operation counts: a Toeplitz product costs ``2 (tap + block)``
multiplications a sample and needs no FFT passes over memory.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._blocks import block_sizes, channels_at_once, fewest_channels
from subquad.ops.causal_conv.direct import convolve_direct, convolve_padded, correlate_direct
from subquad.ops.causal_conv.fft import convolve_fft, convolve_overlap_save, correlate_fft
from subquad.ops.causal_conv.toeplitz import convolve_toeplitz, correlate_toeplitz
from subquad.ops.causal_conv.windows import convolve_in_windows, copied_window, hop_of

Form = Literal["direct", "toeplitz", "overlap_save", "fft"]

_DIRECT_TAPS = {"cpu": 64, "cuda": 16}
_DIRECT_TAPS_OF_SHORT_STREAMS = 128  # on a CPU, where overlap-save has too few windows
_TOEPLITZ_TAPS = {"cpu": 64, "cuda": 256}
_TOEPLITZ_BLOCK = 32
_PADDED_TAPS = 8  # so many taps are memory-bound: the convolution's own padding saves the copy of the stream
_DIRECT_GRADIENT_TAPS = 4
_TOEPLITZ_GRADIENT_TAPS = 256
_FEWEST_WINDOWS = 4  # of overlap-save; twice as many below 96 taps, where direct is faster over short streams
_TAPS_OF_FEW_WINDOWS = 96


def choose_form(device: str, taps: int, length: int) -> Form:
    """Returns the fastest torch form for a filter of ``taps`` over ``length`` samples."""
    if taps <= _DIRECT_TAPS.get(device, 64):
        return "direct"
    if taps <= _TOEPLITZ_TAPS.get(device, 64):
        return "toeplitz"
    fewest = _FEWEST_WINDOWS if taps > _TAPS_OF_FEW_WINDOWS else 2 * _FEWEST_WINDOWS
    if device == "cpu" and length >= fewest * hop_of(taps):
        return "overlap_save"
    return "direct" if device == "cpu" and taps <= _DIRECT_TAPS_OF_SHORT_STREAMS else "fft"


@without_autocast
def convolve(stream: Tensor, rows: Tensor, form: Form) -> Tensor:
    """Convolves ``[batch, channel, tap - 1 + length]`` with ``[channel, tap]`` in one form; returns the last length."""
    past = rows.shape[1] - 1
    if form == "overlap_save" and _in_windows(stream, rows):
        return convolve_in_windows(stream[..., past:], rows, stream[..., :past], _rows_at_once(stream))
    sizes = _block_sizes(stream, rows, form)
    if len(sizes) == 1:
        return _convolve(stream, rows, form)
    blocks = zip(stream.split(sizes, dim=1), rows.split(sizes), strict=True)
    return torch.cat([_convolve(part, own, form) for part, own in blocks], dim=1)


def _block_sizes(stream: Tensor, rows: Tensor, form: Form) -> list[int]:
    """Returns how many channels to convolve at a time; oneDNN wants all of them and keeps no intermediates."""
    channels, width = stream.shape[1], channels_at_once(stream)
    if form == "direct" or width >= channels:
        return [channels]
    return block_sizes(channels, width, fewest_channels(stream, stream.shape[2] + rows.shape[1]))


def _in_windows(stream: Tensor, *others: Tensor | None) -> bool:
    """Says whether overlap-save may read its windows from memory and write over its spectra."""
    return stream.device.type == "cpu" and dispatch.runs_plainly(stream, *others)


def _rows_at_once(stream: Tensor) -> int:
    """Returns how many channels of a sequence overlap-save takes at a time; a window and its spectrum count as two."""
    return max(1, channels_at_once(stream) * stream.shape[0] // 2)


def _convolve(stream: Tensor, rows: Tensor, form: Form) -> Tensor:
    if form == "direct":
        return convolve_direct(stream, rows)
    if form == "toeplitz":
        return convolve_toeplitz(stream, rows, _TOEPLITZ_BLOCK)
    if form == "overlap_save":
        return convolve_overlap_save(stream, rows, copied_window(rows.shape[1]))
    return convolve_fft(stream, rows)


@without_autocast
def _correlate(stream: Tensor, gradient: Tensor, taps: int) -> Tensor:
    if taps <= _DIRECT_GRADIENT_TAPS:
        return correlate_direct(stream, gradient, taps)
    if taps <= _TOEPLITZ_GRADIENT_TAPS:
        return correlate_toeplitz(stream, gradient, taps, _TOEPLITZ_BLOCK)
    return correlate_fft(stream, gradient, taps)


class CausalFilter(torch.autograd.Function):
    """``y[t] = sum(rows[k] * stream[t + tap - 1 - k] for k)``, each direction in its own fastest form."""

    @staticmethod
    def forward(stream: Tensor, rows: Tensor, form: Form) -> Tensor:
        """Filters."""
        return convolve(stream, rows, form)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Form], output: Tensor) -> None:
        """Keeps stream and taps for the gradients."""
        stream, rows, ctx.form = inputs
        ctx.save_for_backward(stream, rows)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Returns the gradients of the stream and of the taps, where they are wanted."""
        stream, rows = ctx.saved_tensors
        gradient, past = gradients[0], rows.shape[1] - 1
        to_stream = to_rows = None
        if ctx.needs_input_grad[0]:
            to_stream = convolve(pad(gradient, (past, past)), rows.flip(-1), ctx.form)
        if ctx.needs_input_grad[1]:
            to_rows = _correlate(stream, gradient, rows.shape[1])
        return to_stream, to_rows, None


def join_history(stream: Tensor, past: int, before: Tensor | None) -> Tensor:
    """Puts ``past`` earlier samples (zeros without a history) in front of ``[batch, channel, length]``."""
    if before is None:
        return pad(stream, (past, 0))
    return torch.cat([before.to(stream.dtype), stream], dim=-1)


def next_history(stream: Tensor, past: int, before: Tensor | None) -> Tensor:
    """Returns the last ``past`` samples of history and stream together (a view where it can be)."""
    length = stream.shape[-1]
    return stream[..., length - past :] if length >= past else join_history(stream, past, before)[..., length:]


def filter_stream(stream: Tensor, taps: Tensor, before: Tensor | None) -> Tensor:
    """Filters ``[batch, channel, length]`` after a history; returns the sums, still in their own dtype."""
    batch, channels, length = stream.shape
    wide = _checks.accumulation_dtype(stream)
    samples = stream.to(wide)
    rows = _checks.expand_groups(taps.to(wide), channels)
    if before is None and rows.shape[1] > length > 0:
        rows = rows[:, :length]  # later taps would only reach what lies before the first sample
    past = rows.shape[1] - 1
    if batch == 0 or length == 0 or channels == 0:
        tied = rows.sum(dim=1)[:, None] + (0 if before is None else before.sum())
        return samples * tied  # empty, yet tied to every input
    if past == 0:
        return samples * rows
    recorded = dispatch.gradient_wanted(samples, rows) and not dispatch.transformed()
    if before is None and past < _PADDED_TAPS and not recorded:
        return convolve_padded(samples, rows)
    form = choose_form(stream.device.type, past + 1, length)
    if recorded:
        return CausalFilter.apply(join_history(samples, past, before), rows, form)  # type: ignore[return-value]
    if form == "overlap_save" and _in_windows(samples, rows, before):
        return convolve_in_windows(samples, rows, before, _rows_at_once(samples))
    sizes = _block_sizes(samples, rows, form)
    histories = [None] * len(sizes) if before is None else before.split(sizes, dim=1)
    parts = [
        _convolve(join_history(part, past, history), own, form)
        for part, own, history in zip(samples.split(sizes, dim=1), rows.split(sizes), histories, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
