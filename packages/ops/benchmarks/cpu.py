"""Times the CPU forms beside what one writes without them; prints the ratio and the error against float64.

usage: cpu.py [--threads N] [--repeats N] [--json FILE]

Every form of a row is run once in each round, so that all meet the same disturbances, and the medians are compared.
"x" is the time of a form over ours; a row whose error is too large is not timed.
"""

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv1d

from subquad import ops

CHANNELS, LENGTHS = 256, (2048, 8192, 65536)
_LARGEST_ERROR = 2e-5


@dataclass
class Row:
    """One operator at one shape: ours first, then what it is compared with."""

    op: str
    case: str
    forms: dict[str, Callable[[], Tensor]]
    exact: Callable[[], Tensor]


def padding_idiom(x: Tensor, w: Tensor) -> Tensor:
    """The usual causal convolution: padding on both sides, then a slice."""
    past = w.shape[1] - 1
    return conv1d(x, w.flip(-1)[:, None], padding=past, groups=w.shape[0])[..., : x.shape[-1]]


def full_fft(x: Tensor, w: Tensor) -> Tensor:
    """One transform of twice the length."""
    n = 2 * x.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(x, n=n) * torch.fft.rfft(w, n=n), n=n)[..., : x.shape[-1]]


def exponentials(log_poles: Tensor, residues: Tensor, length: int) -> Tensor:
    """The usual synthesis of a modal filter: every exponential of every mode."""
    t = torch.arange(length, dtype=log_poles.dtype)
    return (residues[..., None] * torch.exp(log_poles[..., None] * t)).sum(dim=1)


def rows() -> Iterator[Row]:
    """Yields the table."""
    for length in LENGTHS:
        x = torch.randn(1, CHANNELS, length)
        for taps in (3, 7, 128):
            w = torch.randn(CHANNELS, taps) / taps**0.5
            forms: dict[str, Callable[[], Tensor]] = {
                "ours": lambda x=x, w=w: ops.causal_conv(x, w),
                "padding idiom": lambda x=x, w=w: padding_idiom(x, w),
            }
            if taps > 8:
                forms["full FFT"] = lambda x=x, w=w: full_fft(x, w)
            yield Row(
                "causal_conv",
                f"{taps} taps, {CHANNELS} x {length}",
                forms,
                lambda x=x, w=w: ops.causal_conv(x.double(), w.double()),
            )
    for length in LENGTHS:
        x = torch.randn(1, CHANNELS, length)
        p, r = -0.3 * torch.rand(CHANNELS, 16), torch.randn(CHANNELS, 16)
        yield Row(
            "modal_conv",
            f"16 states, {CHANNELS} x {length}",
            {
                "ours": lambda x=x, p=p, r=r: ops.modal_conv(x, p, r),
                "FFT + exponentials": lambda x=x, p=p, r=r: full_fft(x, exponentials(p, r, x.shape[-1])),
                "FFT + modal_filter": lambda x=x, p=p, r=r: full_fft(x, ops.modal_filter(p, r, x.shape[-1])),
            },
            lambda x=x, p=p, r=r: ops.modal_conv(x.double(), p.double(), r.double()),
        )
    pairs = {n: (torch.randn(1, 64, n), torch.randn(64, n) / n**0.5) for n in (10007, 10240)}
    odd, smooth = pairs[10007], pairs[10240]
    yield Row(
        "fft_conv",
        "length taps, 64 x 10007",
        {
            "ours": lambda: ops.fft_conv(*odd, causal=True),
            "ours at 10240": lambda: ops.fft_conv(*smooth, causal=True),
            "FFT of 20013": lambda: torch.fft.irfft(
                torch.fft.rfft(odd[0], n=20013) * torch.fft.rfft(odd[1], n=20013), n=20013
            ),
        },
        lambda: ops.fft_conv(odd[0].double(), odd[1].double(), causal=True),
    )


def milliseconds(call: Callable[[], Tensor]) -> float:
    """Times one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure(row: Row, repeats: int) -> list[dict[str, object]]:
    """Checks ours, times all forms in turns, prints them and returns one line of the table for each."""
    exact = row.exact()
    error = float((row.forms["ours"]().double() - exact).norm() / exact.norm())
    name = f"{row.op:12s} {row.case:24s}"
    if not error < _LARGEST_ERROR:
        print(f"{name} error {error:.1e} is too large; not timed", flush=True)
        return [{"op": row.op, "case": row.case, "form": "ours", "error": error, "problem": "too inexact, not timed"}]
    for call in row.forms.values():
        call()
    rounds = [{form: milliseconds(call) for form, call in row.forms.items()} for _ in range(repeats)]
    medians = {form: statistics.median(each[form] for each in rounds) for form in row.forms}
    others = "  ".join(f"{form} {ms:.2f} ms (x {ms / medians['ours']:.2f})" for form, ms in medians.items())
    print(f"{name} {others}  error {error:.1e}", flush=True)
    return [
        {"op": row.op, "case": row.case, "form": form, "milliseconds": ms, "times_ours": ms / medians["ours"]}
        | ({"error": error} if form == "ours" else {})
        for form, ms in medians.items()
    ]


def processor() -> str:
    """The processor's name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@torch.no_grad()
def main() -> None:
    """Parses the options, runs the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the rows and the machine to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    facts = {
        "title": f"The operators' CPU forms beside what one writes without them, {options.threads} threads",
        "plot": {"y": "milliseconds", "label": ["op", "case", "form"]},
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": f"python packages/ops/benchmarks/cpu.py --threads {options.threads} --json FILE",
        "device": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, {options.threads} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "dtype": "float32",
    }
    print(f"{facts['device']}, torch {torch.__version__}", flush=True)
    table = [line for row in list(rows()) for line in measure(row, options.repeats)]
    if options.json is not None:
        options.json.write_text(json.dumps({**facts, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
