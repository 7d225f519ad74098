"""Medians of repeated calls: CUDA events with a cold cache, or the processor's clock on a CPU."""

import statistics
import time
from collections.abc import Callable

import torch

_COLD_BYTES = 256 << 20
_CPU_REPEATS, _GPU_REPEATS = 7, 50


def median_microseconds(call: Callable[[], object], device: str) -> float:
    """Times a call after a warm-up."""
    for _ in range(3):
        call()
    if device == "cpu":
        return statistics.median(_cpu_seconds(call) for _ in range(_CPU_REPEATS)) * 1e6
    cold = torch.empty(_COLD_BYTES, dtype=torch.uint8, device=device)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(_GPU_REPEATS)]
    for start, end in events:
        cold.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) * 1e3


def graph_microseconds(call: Callable[[], object]) -> float:
    """Times a call inside a CUDA graph of 20 of them, so that launches cost what they cost in a captured step."""
    repeats = 20
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    return median_microseconds(graph.replay, "cuda") / repeats


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
