"""Medians of repeated calls: CUDA events with a cold cache, or the processor's clock on a CPU."""

import statistics
import time
from collections.abc import Callable

import torch

_COLD_BYTES = 256 << 20
_AHEAD = 4  # times that the cache is emptied before a call: some 350 us, in which Python is done with launching it
_CPU_REPEATS, _GPU_REPEATS, _HOST_REPEATS = 7, 50, 20


def median_microseconds(call: Callable[[], object], device: str) -> float:
    """Times a call after a warm-up; on a GPU its kernels alone, while Python is hidden behind the work before them."""
    for _ in range(3):
        call()
    if device == "cpu":
        return statistics.median(_cpu_seconds(call) for _ in range(_CPU_REPEATS)) * 1e6
    cold = torch.empty(_COLD_BYTES, dtype=torch.uint8, device=device)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(_GPU_REPEATS)]
    for start, end in events:
        for _ in range(_AHEAD):
            cold.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) * 1e3


def host_microseconds(call: Callable[[], object]) -> float:
    """Times Python's part of a call: until it returns, while the GPU is busy with what came before."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(_HOST_REPEATS):
        call()
    spent = time.perf_counter() - start
    torch.cuda.synchronize()
    return spent / _HOST_REPEATS * 1e6


def captured(call: Callable[[], object], repeats: int) -> Callable[[], object] | None:
    """Returns what replays a CUDA graph of some calls; None where they cannot be captured."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                call()
    except RuntimeError:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):  # one that succeeds ends what the failed one has begun
            torch.zeros(1, device="cuda")
        return None
    return graph.replay


def graph_microseconds(call: Callable[[], object]) -> float | None:
    """Times a call inside a CUDA graph of 20 of them; None where it cannot be captured."""
    repeats = 20
    replay = captured(call, repeats)
    return None if replay is None else median_microseconds(replay, "cuda") / repeats


def _cpu_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def copy_bytes_per_second(device: str) -> float:
    """Measures the floor's bandwidth: a copy, counting what is read and what is written."""
    size = (1 << 30) if device != "cpu" else (1 << 27)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / (median_microseconds(lambda: target.copy_(source), device) * 1e-6)
