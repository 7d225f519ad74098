"""What one composes without gated_modal_conv: projection filter, gate, filter synthesis, long convolution, gate.

Each stage is timed by itself. The short filter and the long convolution are the vendor's where its library is
installed, else torch's; the long filter is synthesised, or kept from an earlier call ("kept filter").
"""

from collections.abc import Callable, Iterator

import torch
from measure import Row
from timing import median_microseconds
from torch import Tensor

from subquad import ops
from subquad.ops.dispatch import load_backend

_STATES = 16


def chain_rows(name: str, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Iterator[Row]:
    """Times the stages of one chain and their sum, with the filter made each time and kept."""
    batch, channels, length = shape
    backend = "torch" if load_backend("vendor")[0] else "vendor"
    z = (torch.randn(batch, 3 * channels, length, device=device) + 0.1).to(dtype)
    projection = torch.randn(3 * channels, 3, device=device).to(dtype)
    skip = torch.randn(channels, device=device).to(dtype)
    poles, residues = -0.3 * torch.rand(channels, _STATES, device=device), torch.randn(channels, _STATES, device=device)
    projected = torch.empty_like(z)
    q, k, v = (projected[:, i::3] for i in range(3))
    gated = torch.empty(batch, channels, length, dtype=dtype, device=device)
    taps = ops.modal_filter(poles, residues, length).to(dtype)
    stages: dict[str, Callable[[], Tensor]] = {
        "chain: projection": lambda: ops.causal_conv(z, projection, backend=backend),
        "chain: gate": lambda: k * v,
        "chain: filter": lambda: ops.modal_filter(poles, residues, length).to(dtype),
        "chain: convolution": lambda: ops.fft_conv(gated, taps, causal=True, skip=skip, backend=backend),
        "chain: gate after": lambda: q * gated,
    }
    total = kept = 0.0
    for stage, call in stages.items():
        row = Row("gated_modal_conv", stage, name, str(dtype)[6:], backend)
        try:
            with torch.no_grad():
                row.microseconds = median_microseconds(call, device)
        except Exception as error:  # a competitor may raise anything; the other rows must still be measured
            row.problem = f"{type(error).__name__}: {error}".splitlines()[0]
            yield row
            return
        total += row.microseconds
        kept += 0.0 if stage == "chain: filter" else row.microseconds
        yield row
    for label, microseconds in (("chain", total), ("chain, kept filter", kept)):
        yield Row("gated_modal_conv", label, name, str(dtype)[6:], backend, microseconds)
