"""Times causal FFT convolutions with as many taps as samples, up to 16,777,216; prints error and peak memory.

usage: long_filters.py [--channels N] [--json FILE]

The error is that of 64 samples against float64 sums. Peak memory is what one forward call adds, over the input's size.
"""

import argparse
import datetime
import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from timing import median_microseconds
from torch import Tensor

from subquad import ops
from subquad.ops.causal_conv.reference import causal_conv_at

LENGTHS = (8_192, 262_144, 1_048_576, 8_388_608, 16_777_216)


def _plain(x: Tensor, w: Tensor) -> Tensor:
    n = 2 * x.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(x, n=n) * torch.fft.rfft(w, n=n), n=n)[..., : x.shape[-1]]


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "causal_conv": ops.causal_conv,
    "fft_conv": lambda x, w: ops.fft_conv(x, w, causal=True),
    "fft_conv, a channel at a time": lambda x, w: ops.fft_conv(x, w, causal=True, chunk_size=1),
    "torch.fft, twice the length": _plain,
}


def measure(name: str, x: Tensor, w: Tensor, samples: list[int], exact: Tensor) -> dict[str, object]:
    """Checks and times one form; prints its row and returns it."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = FORMS[name](x, w)
    peak = (torch.cuda.max_memory_allocated() - before) / x.nbytes
    error = float((y[..., samples].double() - exact).norm() / exact.norm())
    del y
    time = median_microseconds(lambda: FORMS[name](x, w), "cuda")
    taps = x.shape[-1]
    print(f"{taps:10d} taps  {name:30s} {time:10.1f} us  peak {peak:5.1f} x input  error {error:.1e}", flush=True)
    return {"taps": taps, "form": name, "microseconds": time, "peak_over_input": peak, "error": error}


@torch.no_grad()
def main() -> None:
    """Parses the options, runs the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the rows and the machine to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; filters of so many taps are measured on one")
    torch.manual_seed(0)
    rows = []
    for length in LENGTHS:
        x = torch.randn(1, options.channels, length, device="cuda")
        w = torch.randn(options.channels, length, device="cuda") / length**0.5
        samples = [0, 1, length - 1, *torch.randint(length, (61,)).tolist()]
        exact = causal_conv_at(x, w, samples)
        rows += [measure(name, x, w, samples, exact) for name in FORMS]
    if options.json is not None:
        facts = {
            "title": "Causal FFT convolution with as many taps as samples",
            "plot": {"y": "microseconds", "x": "taps", "series": "form"},
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "command": f"python packages/ops/benchmarks/long_filters.py --channels {options.channels} --json FILE",
            "device": torch.cuda.get_device_name(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "dtype": "float32",
            "channels": options.channels,
        }
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
