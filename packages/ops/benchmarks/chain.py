"""The vendor's way to do gated_modal_conv, stage by stage: projection filter, gate, filter synthesis, FFT, gate.

The projection is cuDNN's, the synthesis subquadratic-ops-torch's implicit_filter, the long convolution whichever of
the two libraries is faster here; streams are laid out so that nothing has to be transposed. Each stage is timed alone,
then the whole, with the filter made each time and kept. The skip term is folded into the filter's first tap.
"""

from collections.abc import Callable, Iterator

import torch
from cases import Case
from measure import Row, times
from ratios import KEPT_FILTER
from rivals import cudnn_operator, fft_rivals, make_filter, separate_streams, synthesis
from torch import Tensor

from subquad.ops import _vendor_libraries as libraries


def chain_rows(name: str, case: Case) -> Iterator[Row]:
    """Times the stages of the chain and the chain with a kept filter; its error is that of the rival of its name."""
    if synthesis() is None or libraries.without_cudnn() is not None:
        return
    z, taps, offset, poles, residues, skip = separate_streams(*case.inputs)
    dtype, length, project = z.dtype, z.shape[-1], cudnn_operator("causal_conv1d")
    with torch.no_grad():
        q, k, v = project(z, taps, offset).chunk(3, dim=1)
        gated, long = k * v, make_filter(poles, residues, skip, length, dtype)
    stages: dict[str, Callable[[], Tensor]] = {
        "stage: projection": lambda: project(z, taps, offset),
        "stage: gate": lambda: k * v,
        "stage: filter": lambda: make_filter(poles, residues, skip, length, dtype),
        "stage: gate after": lambda: q * gated,
    }
    for rival in fft_rivals():
        convolve = rival.run
        stages[f"stage: {rival.name}"] = lambda convolve=convolve: convolve(gated, long)
    measured = {stage: _timed(name, dtype, stage, call) for stage, call in stages.items()}
    yield from measured.values()
    faster = min(fft_rivals(), key=lambda rival: measured[f"stage: {rival.name}"].microseconds or float("inf"))

    def kept() -> Tensor:
        one, two, three = project(z, taps, offset).chunk(3, dim=1)
        return one * faster.run(two * three, long)

    yield _timed(name, dtype, case.name + KEPT_FILTER, kept, f"chain, {faster.name}")


def _timed(shape: str, dtype: torch.dtype, stage: str, call: Callable[[], Tensor], backend: str = "chain") -> Row:
    row = Row("gated_modal_conv", stage, shape, str(dtype)[6:], backend)
    try:
        with torch.no_grad():
            row.microseconds, row.graph_microseconds, row.host_microseconds = times(call, "cuda")
    except Exception as error:  # a competitor may raise anything; the other rows must still be measured
        row.problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return row
