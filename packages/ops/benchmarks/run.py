"""Times the operators against the copy floor and prints their error against float64 in the same row.

usage: run.py [--op OP ...] [--shape a|b|c|a7|c7|m|cpu|tiny ...] [--dtype bfloat16|float32 ...] [--backend NAME ...]
              [--case NAME ...] [--backward] [--against] [--rival NAME ...] [--published] [--json FILE]

"x floor" is the time over that of the fewest bytes at this device's copy bandwidth, measured in the same run, and of
matrix products, where an operator has them, at 790 TFLOP/s. A row whose error is too large prints no time. ``--op all``
and no shape mean everything that fits the device; ``--published`` means the rows of the convolutions that
docs/benchmarks holds, forward and backward. ``--against`` adds the vendor's operators, called directly and timed the
same way, and how many times as fast as the best of them ours is.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from cases import OPERATORS, SHAPES, cases
from chain import chain_rows
from measure import Row, measure
from ratios import Ratio, print_ratio, ratios
from rivals import rivals
from timing import copy_bytes_per_second

from subquad.ops import OpsError
from subquad.ops import _vendor_libraries as libraries
from subquad.ops.dispatch import load_backend

with contextlib.suppress(ModuleNotFoundError):  # a bare GPU machine may not have it; the table needs no progress bar
    from rich.console import Console
    from rich.progress import track

# Operator, shapes, backends and whether the backward pass is timed; the slow forms at the first shape only.
_PUBLISHED = (
    ("causal_conv", ("a", "b", "c"), ("cuda", "vendor"), True),
    ("gated_conv", ("a", "b", "c"), ("cuda", "vendor"), True),
    ("gated_modal_conv", ("a", "b", "c"), ("cuda",), True),
    ("modal_conv", ("a", "c"), ("cuda",), True),
    ("fir_step", ("a",), ("triton", "torch"), False),
    ("modal_step", ("a",), ("triton", "torch"), False),
    ("fft_conv", ("a", "b"), ("vendor", "torch"), False),
)
_SLOW = ("torch",)
_PUBLISHED_CASES = ("3 taps", "4 taps", "7 taps", "128 taps", "length taps", "16 states", "3 + 7 taps", "3 + 128 taps")


def print_row(row: Row) -> None:
    """Prints a row as one line, so that a log is as readable as a screen."""
    name = f"{row.op:17s} {row.case:24s} {row.shape:4s} {row.dtype:9s} {row.backend:17s}"
    if row.microseconds is None:
        print(f"{name} {row.problem}", flush=True)
        return
    error = "       -" if row.error is None else f"{row.error:8.1e}"
    graph = "        -" if row.graph_microseconds is None else f"{row.graph_microseconds:9.1f}"
    floor = "" if row.floor is None else f"  floor {row.floor:8.1f} us  x{row.times_floor:6.2f}"
    back = "" if row.backward_microseconds is None else f"  backward {row.backward_microseconds:9.1f} us"
    if row.backward_times_floor is not None:
        back += f" x{row.backward_times_floor:6.2f} error {row.backward_error or float('nan'):8.1e}"
    host = "" if row.host_microseconds is None else f"  host {row.host_microseconds:6.1f} us"
    print(f"{name} {row.microseconds:10.1f} us  in a graph {graph} us{host}{floor}  error {error}{back}", flush=True)


Step = tuple[str, str, str, tuple[str, ...], bool]  # operator, shape, dtype, backends, backward


def with_progress(plan: list[Step]) -> Iterable[Step]:
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
    parser.add_argument("--backend", nargs="+", default=["cuda", "triton", "torch"] if on_gpu else ["torch"])
    parser.add_argument("--backward", action="store_true", help="also time the backward pass")
    parser.add_argument("--case", nargs="+", help="cases of these names alone, such as '128 taps'")
    parser.add_argument("--against", action="store_true", help="also time what competes, and compare")
    parser.add_argument("--rival", nargs="+", help="of what competes, these alone, such as 'subq fft'")
    parser.add_argument("--published", action="store_true", help="the rows of docs/benchmarks, nothing else")
    parser.add_argument("--json", type=Path, help="write the rows and the machine to this file")
    options = parser.parse_args()
    with _refused_by(parser):
        for name in {*options.backend} - {"torch"}:
            load_backend(name)
    device = "cuda" if on_gpu else "cpu"
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    bandwidth = copy_bytes_per_second(device)
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, copy {bandwidth / 1e9:.0f} GB/s", flush=True)
    rows: list[Row] = []
    for step in with_progress(_plan(options)):
        for row in _rows(step, options, bandwidth, device):
            rows.append(row)
            print_row(row)
        if on_gpu:
            torch.cuda.empty_cache()
        if options.json is not None:  # after each step, so that a run that is cut short leaves what it has
            options.json.write_text(json.dumps(_record(machine, bandwidth, rows, options), indent=1) + "\n")
    for option, names, found in (("--case", options.case, "case"), ("--rival", options.rival, "backend")):
        unknown = sorted({*(names or ())} - {getattr(row, found) for row in rows})
        if unknown:
            parser.error(f"argument {option}: nothing measured here is called {', '.join(map(repr, unknown))}")
    if options.against:
        for ratio in ratios(rows):
            print_ratio(ratio)


@contextlib.contextmanager
def _refused_by(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turns an argument that the operators do not know into an error of the command line."""
    try:
        yield
    except OpsError as error:
        parser.error(str(error))


def _record(machine: str, bandwidth: float, rows: list[Row], options: argparse.Namespace) -> dict[str, object]:
    """What a file under docs/benchmarks holds."""
    against, title = options.against, "The operators against the copy floor"
    compared: list[Ratio] = ratios(rows) if against else []
    plot: dict[str, object] = {"y": "times_floor", "where": {"backend": "cuda"}}
    if against:
        title = f"{', '.join(options.op)} and the best competitor, shape {', '.join(options.shape)}"
        timed = "graph" if any(ratio.timed == "graph" for ratio in compared) else "cold"
        plot = {"y": ["ratio", "target"], "table": "compared", "where": {"timed": timed}, "log": False}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("triton", *(("nvidia-cudnn-frontend", "subquadratic-ops-torch-cu13", "warp-lang") if against else ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    if against and libraries.without_cudnn() is None:
        versions["cudnn"] = str(libraries.cudnn().backend_version())
    typed = ["FILE" if name.endswith(".json") else name for name in sys.argv[1:]]
    return {
        "title": title,
        "plot": {**plot, "label": ["op", "case", "shape", "dtype", *(["direction"] if against else [])]},
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": f"python packages/ops/benchmarks/run.py {shlex.join(typed)}",
        "device": machine,
        "versions": versions,
        "copy_bytes_per_second": bandwidth,
        "rows": [asdict(row) for row in rows],
        **({"compared": [asdict(ratio) for ratio in compared]} if compared else {}),
    }


def _plan(options: argparse.Namespace) -> list[Step]:
    if not options.published:
        operators = OPERATORS if "all" in options.op else options.op
        pairs = [(op, shape) for op in operators for shape in options.shape]
        return [(op, s, d, tuple(options.backend), options.backward) for op, s in pairs for d in options.dtype]
    plan: list[Step] = []
    for op, shapes, backends, backward in _PUBLISHED:
        for shape in shapes:
            taken = tuple(dict.fromkeys((*backends, *(_SLOW if shape == "a" else ()))))
            dtypes = options.dtype if shape == "a" else options.dtype[:1]
            plan += [(op, shape, dtype, taken, backward and shape != "b") for dtype in dtypes]
    return plan


def _rows(step: Step, options: argparse.Namespace, bandwidth: float, device: str) -> Iterator[Row]:
    op, shape, name, backends, backward = step
    dtype = getattr(torch, name)
    offered = [backend for backend in backends if backend == "torch" or not load_backend(backend)[0]]
    for case in cases(op, SHAPES[shape], dtype, device):
        if options.case is not None and case.name not in options.case:
            continue
        if options.published and case.name not in _PUBLISHED_CASES and not case.in_place:
            continue
        for backend in offered if options.published else backends:
            yield measure(Row(op, case.name, shape, name, backend), case, bandwidth, backward)
        if options.against:
            for rival in rivals(op, case):
                if options.rival is not None and rival.name not in options.rival:
                    continue
                yield measure(Row(op, case.name, shape, name, rival.name), case, bandwidth, backward, rival)
        if options.against and op == "gated_modal_conv":
            yield from chain_rows(shape, case)


if __name__ == "__main__":
    main()
