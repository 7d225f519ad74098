"""Times prefill, scoring, decoding and long prompts of our engine and, where it can be imported, of the reference.

usage: run.py [--size 1b|7b|cpu|tiny ...] [--case first|prefill|score|decode|long ...]
              [--engine subquad|subquad-fp8|vtx|vtx-kernels ...] [--longest TOKENS] [--repeats N] [--json FILE]

Weights are random, prompts random bases, tokens greedy. A time is the median wall time of a whole call, prompts as text
in and results out. "x floor" is the time over the least that the arithmetic and the memory of an H100 need for it.
"prefill" reads a prompt and makes one token; "decode" is what a token costs when all prompts are read, from calls that
make many and half as many; "long" is prefill beyond the reference's reach. "first" is the first call on a network,
which makes one token and is not repeated: it is the time to the first token of a process whose compiler caches are
empty where TRITON_CACHE_DIR and CUDA_CACHE_PATH name empty folders. "subquad-fp8" is our engine with weights of one
byte. Peak memory is torch's, weights included.
"""

import argparse
import contextlib
import datetime
import gc
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import reference_engine
import torch
from our_engine import OurEngine
from sizes import BYTES_PER_SECOND, FLOPS_PER_SECOND, PRESETS, Floor, decoding_floor, reading_floor

with contextlib.suppress(ModuleNotFoundError):  # a bare GPU machine may not have it; the table needs no progress bar
    from rich.console import Console
    from rich.progress import track

OURS = ("subquad", "subquad-fp8")
ENGINES = (*OURS, "vtx", "vtx-kernels")
CASES = ("first", "prefill", "score", "decode", "long")
_MIB = 1 << 20
_LONG = 200_000  # tokens of a prompt that is read once only


@dataclass(frozen=True)
class Shape:
    """One measurement: batch and prompt length, and tokens to make where it is about them."""

    case: str
    batch: int
    length: int
    tokens: int = 1

    @property
    def half(self) -> int:
        """Half as many tokens, one that a prompt gives by itself not counted."""
        return 1 + (self.tokens - 1) // 2

    @property
    def longest(self) -> int:
        """Tokens of a sequence at its end."""
        return self.length + self.tokens + 1


SHAPES: dict[str, list[Shape]] = {
    "1b": [
        Shape("first", 1, 7919),
        Shape("prefill", 1, 4096),
        Shape("prefill", 1, 8000),
        Shape("score", 1, 8192),
        Shape("score", 8, 8192),
        Shape("decode", 1, 8000, 65),
        Shape("decode", 8, 8000, 65),
        Shape("long", 1, 131_072),
        Shape("long", 1, 262_144),
        Shape("long", 1, 1_000_000),
    ],
    "7b": [
        Shape("first", 1, 7919),
        Shape("prefill", 1, 4096),
        Shape("prefill", 1, 8000),
        Shape("score", 1, 8192),
        Shape("score", 8, 8192),
        Shape("decode", 1, 8000, 65),
        Shape("decode", 32, 8000, 65),
        Shape("decode", 32, 48, 65),
        Shape("long", 1, 32_768),
        Shape("long", 1, 131_072),
        Shape("long", 1, 262_144),
    ],
    "cpu": [Shape("prefill", 1, 2048), Shape("score", 1, 2048), Shape("decode", 1, 2048, 257)],
    "tiny": [
        Shape("first", 1, 291),
        Shape("prefill", 1, 300),
        Shape("score", 2, 300),
        Shape("decode", 1, 300, 9),
        Shape("long", 1, 5000),
    ],
}


@dataclass
class Row:
    """One line of the table."""

    size: str
    engine: str
    case: str
    batch: int
    length: int
    milliseconds: float | None = None
    tokens_per_second: float | None = None
    floor_milliseconds: float | None = None
    times_floor: float | None = None
    peak_bytes: int | None = None
    weight_bytes: int | None = None
    key_value_bytes: int | None = None
    problem: str | None = None


def bases(count: int, seed: int) -> str:
    """Random nucleotides."""
    return "".join(random.Random(seed).choices("ACGT", k=count))


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Returns the median time of a call after one warm-up, or the time of the only one."""
    if repeats > 1:
        call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def seconds_more(call: Callable[[int], object], many: int, few: int, repeats: int) -> float:
    """Returns how much longer a call with many takes than with few: the median over pairs, one right after the other.

    Raises:
      RuntimeError: it takes no longer; what else the machine did hides the difference.
    """
    for count in (few, many):
        call(count)
    more = [-seconds(lambda: call(few), 1) + seconds(lambda: call(many), 1) for _ in range(repeats)]
    median = statistics.median(more)
    if median <= 0:
        raise RuntimeError(
            f"{many} tokens took {-median:.4f} s less than {few}; the machine is busy, or needs more --repeats"
        )
    return median


def measure(engine: Any, shape: Shape, row: Row, repeats: int) -> None:
    """Fills a row."""
    texts = [bases(shape.length, seed) for seed in range(shape.batch)]
    preset = PRESETS[row.size]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if shape.case == "score":
        taken, made = seconds(lambda: engine.score(texts), repeats), shape.batch * shape.length
        floor = reading_floor(preset, shape.batch, shape.length)
    elif shape.case == "decode":
        more = seconds_more(lambda n: engine.generate(texts, n), shape.tokens, shape.half, repeats)
        taken, made = more / (shape.tokens - shape.half), shape.batch
        floor = decoding_floor(preset, shape.batch, shape.length)
    else:
        taken, made = seconds(lambda: engine.generate(texts, 1), repeats), shape.batch * shape.length
        floor = reading_floor(preset, shape.batch, shape.length)
    row.milliseconds, row.tokens_per_second = taken * 1e3, made / taken
    if torch.cuda.is_available():
        _hold_to(row, floor)
        row.peak_bytes, row.weight_bytes = torch.cuda.max_memory_allocated(), engine.weight_bytes
        row.key_value_bytes = 4 * shape.batch * shape.longest * preset.hidden_size * preset.pattern.count("*")


def _hold_to(row: Row, floor: Floor) -> None:
    row.floor_milliseconds = floor.milliseconds
    row.times_floor = (row.milliseconds or 0.0) / floor.milliseconds


def print_row(row: Row) -> None:
    """Prints a row as one line, so that a log is as readable as a screen."""
    name = f"{row.size:4s} {row.engine:17s} {row.case:8s} {row.batch:3d} x {row.length:<8d}"
    if row.milliseconds is None:
        print(f"{name} {row.problem}", flush=True)
        return
    floor = "" if row.times_floor is None else f"  floor {row.floor_milliseconds:9.2f} ms  x{row.times_floor:6.2f}"
    peak = "" if row.peak_bytes is None else f"  peak {row.peak_bytes / 1e9:6.2f} GB"
    print(f"{name} {row.milliseconds:10.2f} ms  {row.tokens_per_second:10.1f} tok/s{floor}{peak}", flush=True)


def print_slope(rows: list[Row]) -> None:
    """Prints how peak memory beyond weights, keys and values grows with the prompt."""
    known = [row for row in rows if row.case in ("prefill", "long") and row.peak_bytes is not None]
    if len(known) < 2:
        return
    first, last = known[0], known[-1]
    grown = [(r.peak_bytes or 0) - (r.weight_bytes or 0) - (r.key_value_bytes or 0) for r in (first, last)]
    slope = (grown[1] - grown[0]) / _MIB / (last.length - first.length)
    print(
        f"{last.size} {last.engine}: {slope:.4f} MiB a token beyond weights, keys and values from {first.length} to "
        f"{last.length} tokens",
        flush=True,
    )


def make_engine(name: str, size: str, device: str, longest: int) -> Any:
    """Builds one engine with random weights."""
    dtype = torch.bfloat16 if device == "cuda" and size != "cpu" else torch.float32
    if name in OURS:
        rounded = name == "subquad-fp8"
        return OurEngine(PRESETS[size], device=device, dtype=dtype, longest=longest, rounded=rounded)
    return reference_engine.ReferenceEngine(
        PRESETS[size], device=device, dtype=dtype, longest=longest, kernels=name == "vtx-kernels"
    )


def run_engine(name: str, size: str, shapes: list[Shape], device: str, repeats: int) -> Iterator[Row]:
    """Measures all shapes on one engine, row by row; what fails leaves its reason in the row."""
    rows = [Row(size, name, shape.case, shape.batch, shape.length) for shape in shapes]
    missing = None if name in OURS else reference_engine.problem()
    engine = None if missing else make_engine(name, size, device, max(shape.longest for shape in shapes))
    for row, shape in with_progress(list(zip(rows, shapes, strict=True))):
        try:
            if engine is None:
                row.problem = missing
            else:
                tokens = shape.batch * shape.length
                once = shape.case == "first" or shape.length > _LONG
                measure(engine, shape, row, 1 if once else 2 if tokens > _LONG else repeats)
        except Exception as error:  # one engine out of memory must not hide the others
            row.problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
        print_row(row)
        _collect()
        yield row
    print_slope(rows)
    del engine
    _collect()


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_progress(plan: Iterable) -> Iterable:
    """Shows a progress bar on stderr where rich is installed and someone looks at it."""
    if "track" not in globals() or not sys.stderr.isatty():
        return plan
    return track(plan, console=Console(file=sys.stderr), description="engine")


def facts(arguments: list[str]) -> dict[str, Any]:
    """Says where and how the numbers were made."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "title": f"Prompts, scores and decoding on {device}",
        "plot": {"y": "milliseconds", "label": ["size", "case", "batch", "length", "engine"]},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(["python3 packages/inference/benchmarks/run.py", *arguments]),
        "device": device,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "floor_assumes": {"flops_per_second": FLOPS_PER_SECOND, "bytes_per_second": BYTES_PER_SECOND},
    }


def main() -> None:
    """Parses the options and runs the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--size", nargs="+", default=["1b", "7b"] if on_gpu else ["cpu"], choices=list(PRESETS))
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--engine", nargs="+", default=list(ENGINES) if on_gpu else ["subquad", "vtx"], choices=ENGINES)
    parser.add_argument("--longest", type=int, default=1 << 20, help="leave out longer prompts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows and the machine to this file")
    options = parser.parse_args()
    described = facts(sys.argv[1:])
    print(f"{described['device']}, torch {torch.__version__}", flush=True)
    rows: list[Row] = []
    for size in options.size:
        for name in options.engine:
            shapes = [s for s in SHAPES[size] if s.case in options.case and s.length <= options.longest]
            if name not in OURS:
                shapes = [shape for shape in shapes if shape.case != "long"]
            for row in run_engine(name, size, shapes, "cuda" if on_gpu else "cpu", options.repeats) if shapes else ():
                rows.append(row)
                if options.json is not None:  # after every row, so that none is lost
                    save(options.json, {**described, "rows": [asdict(row) for row in rows]})


def save(path: Path, results: dict[str, Any]) -> None:
    """Writes a file as a whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
