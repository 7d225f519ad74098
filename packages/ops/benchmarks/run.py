"""Times the operators against the copy floor and prints their error against float64 in the same row.

usage: run.py [--op OP ...] [--shape a|b|c|a7|c7|cpu|tiny ...] [--dtype bfloat16|float32 ...] [--backend NAME ...]
              [--backward] [--json FILE]

"x floor" is the time over that of the fewest bytes at this device's copy bandwidth, measured in the same run. A row
whose error is too large prints no time. ``--op all`` and no shape mean everything that fits the device.
"""

import argparse
import contextlib
import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from cases import OPERATORS, SHAPES, Case, cases
from timing import copy_bytes_per_second, graph_microseconds, median_microseconds

from subquad.ops import BackendUnavailable

with contextlib.suppress(ModuleNotFoundError):  # a bare GPU machine may not have it; the table needs no progress bar
    from rich.console import Console
    from rich.progress import track

_LARGEST_ERROR = {torch.float32: 2e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}
_CHECKED_ROWS = 1 << 24  # elements of an input up to which the error is taken on the whole call


@dataclass
class Row:
    """One line of the table."""

    op: str
    case: str
    shape: str
    dtype: str
    backend: str
    microseconds: float | None
    graph_microseconds: float | None
    backward_microseconds: float | None
    floor: float
    times_floor: float | None
    error: float | None
    problem: str | None = None


def error_of(case: Case, backend: str) -> float | None:
    """Relative error against float64 torch, or None where float64 would need too much memory."""
    if max(t.numel() for t in case.inputs) > 16 * _CHECKED_ROWS:
        return None
    got = case.run(*[t.clone() if case.in_place else t for t in case.inputs], backend=backend)
    exact = case.run(*[t.double() if t.is_floating_point() else t for t in case.inputs], backend="torch")
    return float((got.double() - exact).norm() / exact.norm())


def measure(op: str, shape: str, case: Case, backend: str, bandwidth: float, backward: bool) -> Row:
    """Checks, then times one case on one backend."""
    device = case.inputs[0].device.type
    dtype = case.inputs[0].dtype
    floor = case.bytes / bandwidth * 1e6
    row = Row(op, case.name, shape, str(dtype)[6:], backend, None, None, None, floor, None, None)
    try:
        row.error = error_of(case, backend)
        if row.error is not None and not row.error <= _LARGEST_ERROR[dtype]:
            row.problem = f"error {row.error:.1e} is too large; not timed"
            return row
        with torch.no_grad():
            row.microseconds = median_microseconds(lambda: case.run(*case.inputs, backend=backend), device)
            if device == "cuda" and row.microseconds < 200 and backend != "vendor":
                row.graph_microseconds = graph_microseconds(lambda: case.run(*case.inputs, backend=backend))
        row.times_floor = min(row.microseconds, row.graph_microseconds or row.microseconds) / floor
        if backward and case.differentiable:
            row.backward_microseconds = _backward(case, backend, device)
    except (BackendUnavailable, torch.OutOfMemoryError) as error:
        row.problem = str(error).splitlines()[0]
    return row


def _backward(case: Case, backend: str, device: str) -> float:
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in case.inputs]
    wanted = [t for t in leaves if t.requires_grad]
    y = case.run(*leaves, backend=backend)
    upstream = torch.ones_like(y)
    return median_microseconds(lambda: torch.autograd.grad(y, wanted, upstream, retain_graph=True), device)


def print_row(row: Row) -> None:
    """Prints a row as one line, so that a log is as readable as a screen."""
    name = f"{row.op:17s} {row.case:20s} {row.shape:4s} {row.dtype:9s} {row.backend:7s}"
    if row.microseconds is None or row.times_floor is None:
        print(f"{name} {row.problem}", flush=True)
        return
    error = "       -" if row.error is None else f"{row.error:8.1e}"
    graph = "        -" if row.graph_microseconds is None else f"{row.graph_microseconds:9.1f}"
    back = "" if row.backward_microseconds is None else f"  backward {row.backward_microseconds:9.1f} us"
    times = f"{row.microseconds:10.1f} us  in a graph {graph} us  floor {row.floor:8.1f} us  x{row.times_floor:6.2f}"
    print(f"{name} {times}  error {error}{back}", flush=True)


def with_progress(plan: list[tuple[str, str, str]]) -> Iterable[tuple[str, str, str]]:
    """Shows a progress bar on stderr where rich is installed and someone looks at it."""
    if "track" not in globals() or not sys.stderr.isatty():
        return plan
    return track(plan, console=Console(file=sys.stderr), description="operators")


def main() -> None:
    """Parses the options and runs the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--op", nargs="+", default=["all"], choices=["all", *OPERATORS])
    parser.add_argument("--shape", nargs="+", default=["a", "c"] if on_gpu else ["cpu"], choices=list(SHAPES))
    parser.add_argument(
        "--dtype",
        nargs="+",
        default=["bfloat16", "float32"] if on_gpu else ["float32"],
        choices=["bfloat16", "float32"],
    )
    parser.add_argument("--backend", nargs="+", default=["triton", "torch"] if on_gpu else ["torch"])
    parser.add_argument("--backward", action="store_true", help="also time the backward pass")
    parser.add_argument("--json", type=Path, help="write the rows and the machine to this file")
    options = parser.parse_args()
    device = "cuda" if on_gpu else "cpu"
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    bandwidth = copy_bytes_per_second(device)
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, copy {bandwidth / 1e9:.0f} GB/s", flush=True)
    operators = OPERATORS if "all" in options.op else options.op
    plan = [(op, s, d) for op in operators for s in options.shape for d in options.dtype]
    rows: list[Row] = []
    for op, shape, dtype in with_progress(plan):
        for case in cases(op, SHAPES[shape], getattr(torch, dtype), device):
            for backend in options.backend:
                rows.append(measure(op, shape, case, backend, bandwidth, options.backward))
                print_row(rows[-1])
        if on_gpu:
            torch.cuda.empty_cache()
    if options.json is not None:
        facts = {"machine": machine, "torch": torch.__version__, "copy_bytes_per_second": bandwidth}
        options.json.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
