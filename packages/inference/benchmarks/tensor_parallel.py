"""Times prompts and decoding of one network that several processes share, each with a device of its own.

usage: tensor_parallel.py [--size 40b|7b|1b|cpu|tiny ...] [--ranks N ...] [--engine subquad|subquad-fp8 ...]
                          [--case prefill|decode ...] [--device cuda|cpu] [--repeats N] [--json FILE]

Every rank draws its own part of the weights on its own device; none ever holds the whole. "prefill" reads a prompt and
makes one token; "decode" is what a token costs when all prompts are read, from calls that make many and half as many.
Times are medians of whole calls. "x floor" is the time over the least that the arithmetic and the memory of so many
H100s need for it, sums between them left out. "steps" says whether a decode step is one captured CUDA graph, sums
included, or why not. Peak memory is torch's, weights included, for each device; on the CPU the most that each process
ever held. One rank is one process without any sum. NVLink multicast is off unless NCCL_NVLS_ENABLE says otherwise.

The exit status is 1 where a case has a problem, 2 where FILE cannot be written, 130 after Ctrl-C; rows that are done
are in FILE by then.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from random_network import random_part, stored_bytes
from run import Shape, bases, save, seconds
from run import facts as machine_facts
from sizes import PRESETS, Floor, decoding_floor, reading_floor

from subquad.inference import ByteTokenizer, Engine, GenerationOptions
from subquad.inference.tensor_parallel import lead
from subquad.modules import STRIPED_HYENA2_PRESETS, StripedHyena2Preset, WholeChannels

ENGINES = ("subquad", "subquad-fp8")
CASES = ("prefill", "decode")
SIZES: dict[str, StripedHyena2Preset] = {**PRESETS, "40b": STRIPED_HYENA2_PRESETS["40b"]}
MULTICAST_OFF = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
SHAPES = [Shape("prefill", 1, 8000), Shape("decode", 1, 8000, 65), Shape("decode", 32, 48, 65)]
SMALL_SHAPES = [Shape("prefill", 1, 300), Shape("decode", 1, 300, 9), Shape("decode", 4, 48, 9)]
_PREFILL_ROWS = 8  # short prompts that are read side by side


@dataclass
class Row:
    """One line of the table."""

    size: str
    ranks: int
    engine: str
    case: str
    batch: int
    length: int
    milliseconds: float | None = None
    tokens_per_second: float | None = None
    floor_milliseconds: float | None = None
    times_floor: float | None = None
    steps: str | None = None
    peak_bytes_per_device: list[int] = field(default_factory=list)
    weight_bytes_per_device: int | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """What is measured."""
        return f"{self.size:4s} {self.ranks} ranks {self.engine:11s} {self.case:7s} {self.batch:3d} x {self.length:<6d}"


class SharedEngine:
    """This package's engine over a number of ranks, driven through its public calls."""

    def __init__(
        self, preset: StripedHyena2Preset, *, ranks: int, device: torch.device, dtype: torch.dtype, rounded: bool
    ) -> None:
        build = partial(random_part, preset, dtype, rounded)
        self._ranks = ranks
        self._network: Any = build(WholeChannels(), device) if ranks == 1 else lead(build, ranks, device)
        self._engines: dict[Shape, Engine] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the parameters of one rank."""
        return stored_bytes(self._network)

    def generate(self, shape: Shape, prompts: list[str], tokens: int) -> None:
        """Reads the prompts and makes so many tokens for each."""
        results = self._engine(shape).generate(prompts, GenerationOptions(max_new_tokens=tokens))
        assert all(len(result.ids) == tokens for result in results), "a sequence ended early"

    def steps(self, shape: Shape) -> str:
        """Says how decode steps run."""
        return self._engine(shape).explain()

    def begin(self, shape: Shape) -> None:
        """Gives back what other shapes left and counts memory anew."""
        for other, engine in self._engines.items():
            if other != shape:
                engine.free_states()
        if self._ranks > 1:
            self._network.reset_peak_bytes()
        elif torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> list[int]:
        """The most memory that each rank held since ``begin``; empty where nobody counts."""
        if self._ranks > 1:
            return self._network.peak_bytes()
        return [torch.cuda.max_memory_allocated()] if torch.cuda.is_available() else []

    def close(self) -> None:
        """Ends the other ranks."""
        for engine in self._engines.values():
            engine.free_states()
        self._engines.clear()
        if self._ranks > 1:
            self._network.close()

    def _engine(self, shape: Shape) -> Engine:
        if shape not in self._engines:
            self._engines[shape] = Engine(
                self._network,
                ByteTokenizer(self._network.part.vocab_size if self._ranks > 1 else self._network.vocab_size),
                max_running=shape.batch,
                prefill_rows=min(_PREFILL_ROWS, shape.batch),
                max_sequence_tokens=shape.longest,
            )
        return self._engines[shape]


def measure(engine: SharedEngine, shape: Shape, row: Row, repeats: int) -> None:
    """Fills a row."""
    texts, preset = [bases(shape.length, seed) for seed in range(shape.batch)], SIZES[row.size]
    engine.begin(shape)
    if shape.case == "decode":
        many, half = (
            seconds(lambda n=n: engine.generate(shape, texts, n), repeats) for n in (shape.tokens, shape.half)
        )
        taken, made = (many - half) / (shape.tokens - shape.half), shape.batch
        floor, row.steps = decoding_floor(preset, shape.batch, shape.length), engine.steps(shape)
    else:
        taken, made = seconds(lambda: engine.generate(shape, texts, 1), repeats), shape.batch * shape.length
        floor = reading_floor(preset, shape.batch, shape.length)
    row.milliseconds, row.tokens_per_second = taken * 1e3, made / taken
    row.peak_bytes_per_device, row.weight_bytes_per_device = engine.peak_bytes(), engine.weight_bytes
    if torch.cuda.is_available():
        _hold_to(row, floor)


def _hold_to(row: Row, floor: Floor) -> None:
    row.floor_milliseconds = floor.milliseconds / row.ranks
    row.times_floor = (row.milliseconds or 0.0) / row.floor_milliseconds


def print_row(row: Row) -> None:
    """Prints a row as one line."""
    if row.milliseconds is None or row.tokens_per_second is None:
        print(f"{row.name} {row.problem}", flush=True)
        return
    floor = "" if row.times_floor is None else f"  floor {row.floor_milliseconds:9.3f} ms  x{row.times_floor:6.2f}"
    peak = ", ".join(f"{peak / 1e9:.2f}" for peak in row.peak_bytes_per_device)
    print(
        f"{row.name} {row.milliseconds:10.3f} ms  {row.tokens_per_second:10.1f} tok/s{floor}"
        f"{f'  peak {peak} GB' if peak else ''}{f'  {row.steps}' if row.steps else ''}",
        flush=True,
    )


def run_engine(engine: SharedEngine, rows: list[tuple[Row, Shape]], repeats: int) -> Iterator[Row]:
    """Measures all shapes, row by row; what fails leaves its reason in the row."""
    for row, shape in rows:
        print(f"{row.name} running, {1 + repeats if repeats > 1 else 1} times", flush=True)
        try:
            measure(engine, shape, row, repeats)
        except Exception as error:  # one case out of memory must not hide the others
            row.problem = _one_line(error)
        print_row(row)
        yield row


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def facts(arguments: list[str], device: torch.device, ranks: list[int]) -> dict[str, Any]:
    """Says where and how the numbers were made."""
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    described = machine_facts(arguments)
    many = f"{' and '.join(map(str, ranks))} of {described['device']}" if on_gpu else f"the CPU, {platform.machine()}"
    described |= {
        "title": f"A network that processes share on {many}",
        "plot": {"y": "milliseconds", "label": ["size", "case", "batch", "length", "ranks", "engine"]},
        "command": " ".join(["python3 packages/inference/benchmarks/tensor_parallel.py", *arguments]),
    }
    if on_gpu:
        described["versions"]["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        described["environment"] = {name: os.environ[name] for name in MULTICAST_OFF}
    return described


def run_all(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Runs the table; a number of ranks that cannot be has its reason in its rows."""
    described, rows = facts(sys.argv[1:], device, options.ranks), []
    _save(options.json, described, rows)  # a file that cannot be written is known before any work
    for size, ranks, name in [(s, r, e) for s in options.size for r in options.ranks for e in options.engine]:
        shapes = SMALL_SHAPES if size in ("tiny", "cpu") else SHAPES
        plan = [(Row(size, ranks, name, s.case, s.batch, s.length), s) for s in shapes if s.case in options.case]
        dtype = torch.bfloat16 if device.type == "cuda" and size != "cpu" else torch.float32
        print(f"{size} {name}: making weights on {ranks} ranks ({device.type})", flush=True)
        start = time.perf_counter()
        try:
            engine = SharedEngine(SIZES[size], ranks=ranks, device=device, dtype=dtype, rounded=name == "subquad-fp8")
        except Exception as error:
            for row, _ in plan:
                row.problem = _one_line(error)
                print_row(row)
                rows.append(row)
            _save(options.json, described, rows)
            continue
        print(f"{size} {name}: {ranks} ranks are ready after {time.perf_counter() - start:.1f} s", flush=True)
        try:
            for row in run_engine(engine, plan, options.repeats):
                rows.append(row)
                _save(options.json, described, rows)  # after every row, so that none is lost
        finally:
            engine.close()
    return rows


def _save(path: Path | None, described: dict[str, Any], rows: list[Row]) -> None:
    if path is not None:
        save(path, {**described, "rows": [asdict(row) for row in rows]})


def main() -> int:
    """Parses the options and runs the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--size", nargs="+", default=["40b" if on_gpu else "tiny"], choices=list(SIZES))
    parser.add_argument("--ranks", nargs="+", type=int, default=[2], help="processes that share the network")
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--engine", nargs="+", default=["subquad"], choices=ENGINES)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows and the machine to this file")
    options = parser.parse_args()
    if min(options.ranks) < 1 or options.repeats < 1:
        parser.error(f"--ranks {options.ranks} and --repeats {options.repeats}: accepted are 1 and more")
    for name, value in MULTICAST_OFF.items():
        os.environ.setdefault(name, value)
    try:
        rows = run_all(options, torch.device(options.device))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 1 if any(row.problem for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
