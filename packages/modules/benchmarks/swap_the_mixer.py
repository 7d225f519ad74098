"""Measures one small network with every mixer in turn: parameters, operations, memory, speed, and how well it learns.

usage: swap_the_mixer.py [--device cpu|cuda] [--dtype float32|bfloat16] [--width N] [--length N ...] [--steps N]
                         [--mixer NAME ...] [--json FILE]

The task is a gated delay: of two channels, noise and a sign, ``y[t] = sign[t] * noise[t - 48]``, zero before. A row
holds, for one mixer and one length, the numbers of one training step of a batch of one; the loss is the mean square
error (1.0 for an output of zeros) after the given steps of training at 256 samples, in float32, or null. Times on a
CPU are processor time of one thread, so that what else the machine does counts little.
"""

import argparse
import datetime
import json
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from subquad.lazy_config import Config, LazyConfig, instantiate
from subquad.modules import (
    MLP,
    Attention,
    CKConv,
    GaussianModulation,
    Hyena,
    HyenaLong,
    HyenaMedium,
    HyenaShort,
    Mamba,
    MultiHeadAttention,
    QKVSequenceMixer,
    ResidualBlock,
    ResidualNetwork,
    RMSNorm,
    ShortConvolution,
    SIRENFilter,
    StateSpace,
    flop_counts,
)

DELAY, TASK_LENGTH, BATCH = 48, 256, 8


def mixers(length: int) -> dict[str, Config[Any]]:
    """Returns the configuration of every mixer by its name; ``channels`` is left to the network."""
    filter_cfg = LazyConfig(SIRENFilter)(omega_0=30.0)
    long = LazyConfig(CKConv)(trained_size=length, causal=True, filter_cfg=filter_cfg)
    long.modulation_cfg = LazyConfig(GaussianModulation)()
    short = LazyConfig(ShortConvolution)(causal=True)
    return {
        "Attention": LazyConfig(Attention)(num_heads=4),
        "MultiHeadAttention": LazyConfig(MultiHeadAttention)(num_heads=4, causal=True, qk_norm="rms"),
        "MultiHeadAttention, window 64": LazyConfig(MultiHeadAttention)(num_heads=4, causal=True, window=64),
        "HyenaShort, 7 taps": LazyConfig(HyenaShort)(groups=8, projection_filter_length=3),
        "HyenaMedium, 128 taps": LazyConfig(HyenaMedium)(groups=8, projection_filter_length=3),
        "HyenaLong, 16 modes": LazyConfig(HyenaLong)(projection_filter_length=3, filter_parameters="p_gamma"),
        "StateSpace, causal": LazyConfig(StateSpace)(causal=True),
        "Mamba 1": LazyConfig(Mamba)(chunk_size=2048),
        "Mamba 2": LazyConfig(Mamba)(version=2, head_size=32, state_size=16, chunk_size=2048),
        "CKConv": long,
        "Hyena": LazyConfig(Hyena)(global_conv_cfg=long, short_conv_cfg=short),
    }


def network(mixer: Config[Any], width: int) -> Config[ResidualNetwork]:
    """Returns the network around a mixer; the mixer is the one line that differs."""
    filled = LazyConfig(QKVSequenceMixer)(hidden_dim=width, mixer_cfg=mixer)
    filled.mixer_cfg.channels = width
    block = LazyConfig(ResidualBlock)(
        sequence_mixer_cfg=filled,
        norm_cfg=LazyConfig(RMSNorm)(channels=width),
        mlp_cfg=LazyConfig(MLP)(channels=width, activation="swiglu"),
    )
    return LazyConfig(ResidualNetwork)(
        in_proj_cfg=LazyConfig(nn.Linear)(in_features=2, out_features=width),
        block_cfg=block,
        out_proj_cfg=LazyConfig(nn.Linear)(in_features=width, out_features=1),
        num_blocks=2,
        norm_cfg=LazyConfig(RMSNorm)(channels=width),
    )


def gated_delay(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns inputs ``[batch, length, 2]`` and what they should become, ``[batch, length, 1]``."""
    noise = torch.randn(batch, length, 1, generator=generator)
    sign = torch.randint(0, 2, (batch, length, 1), generator=generator) * 2.0 - 1
    late = functional.pad(noise, (0, 0, DELAY, 0))[:, :length]
    return torch.cat([noise, sign], dim=-1), sign * late


def train(cfg: Config[ResidualNetwork], steps: int, device: str) -> float:
    """Trains on the task and returns the mean loss of the last ten steps."""
    torch.manual_seed(0)
    model, generator = instantiate(cfg).to(device), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        x, y = (part.to(device) for part in gated_delay(BATCH, TASK_LENGTH, generator))
        loss = functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses[-10:]).mean())


def milliseconds(run: Callable[[], object], device: str, budget: float = 0.5) -> float:
    """Returns the median time of a call, after one to warm up: on a CPU the processor's time, of one thread."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    run()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 50):
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times) * 1e3


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Returns the greatest number of bytes that a call has allocated at a time, as the allocator saw it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = [event["args"] for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    return max(event["Total Allocated"] for event in events) - events[0]["Total Allocated"] + events[0]["Bytes"]


def measure(cfg: Config[ResidualNetwork], length: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Returns the numbers of one training step on one sequence."""
    model = instantiate(cfg).to(device=device, dtype=dtype)
    x = torch.randn(1, length, 2, device=device, dtype=dtype)

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    took = milliseconds(step, device)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "forward_megaflops": round(sum(flop_counts(model, x).values()) / 1e6, 3),
        "step_milliseconds": round(took, 3),
        "tokens_per_second": round(length / took * 1e3),
        "peak_mebibytes": round(peak_bytes(step, device) / 2**20, 2),
    }


def rows_of(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measures every mixer at every length; one that fails has a row that says why."""
    dtype = getattr(torch, arguments.dtype)
    for name in arguments.mixer or mixers(TASK_LENGTH):
        loss = None
        if arguments.steps:
            loss = round(train(network(mixers(TASK_LENGTH)[name], 32), arguments.steps, arguments.device), 4)
        for length in arguments.length:
            row: dict[str, Any] = {"mixer": name, "length": length, "loss": loss, "problem": None}
            try:
                row |= measure(network(mixers(length)[name], arguments.width), length, arguments.device, dtype)
            except RuntimeError as error:  # out of memory, or a kernel that does not run here
                row["problem"] = str(error).splitlines()[0].split(". ")[0][:200]
            yield row


def processor() -> str:
    """Names the processor and the number of threads used."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text() if path.exists() else "")
    return f"{found[1] if found else platform.machine()}, {torch.get_num_threads()} thread(s)"


def main() -> int:
    """Measures, prints and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--length", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--mixer", nargs="+", choices=list(mixers(TASK_LENGTH)))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    words = ["FILE" if word == str(arguments.json) else word for word in sys.argv[1:]]
    record = {
        "title": f"One network, every mixer, on a {'GPU' if arguments.device == 'cuda' else 'CPU'}",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python3 packages/modules/benchmarks/swap_the_mixer.py", *words]),
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else processor(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "width": arguments.width,
        "dtype": arguments.dtype,
        "plot": {"x": "length", "y": "step_milliseconds", "series": "mixer"},
        "rows": rows,
    }
    for row in rows_of(arguments):
        print(row, flush=True)
        rows.append(row)
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if any(row["problem"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
