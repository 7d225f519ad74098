"""Times generation with the fused operators and without: identical prompts, one process, one network.

usage: subquadratic_ops.py [--preset 1b_base] [--dtype bfloat16] [--batches 8] [--json FILE] [--warm CASE]

Off is every part of a Hyena layer alone in plain torch, on is the fused operator. Prefill is the network alone reading
the prompt into a state. A case is a prompt length and a number of new tokens. Every batch generates it anew with each
setting, in turn; batch 1 holds whatever is compiled or tuned on first use and is shown apart, the median is that of
batches 3 and later. ``--warm off:4096`` runs one setting of one case once and ends: several such processes fill the
caches side by side.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from subquad.inference import ByteTokenizer, Engine, GenerationOptions
from subquad.lazy_config import instantiate
from subquad.modules import StripedHyena2, striped_hyena2_preset

CASES = ((4096, 5), (8000, 1))
PUBLISHED = {4096: 0.10, 8000: 0.15}  # gains of the reference's own fused kernels, on another GPU
COMMAND = "packages/inference/benchmarks/subquadratic_ops.py"
SETTINGS = {"off": False, "on": True}


@dataclass
class Row:
    """One line of the table."""

    prompt_tokens: int
    new_tokens: int
    seconds_off: float
    seconds_on: float
    faster: float
    published_faster: float
    prefill_off: float
    prefill_on: float
    first_batch_off: float
    first_batch_on: float
    peak_gib_off: float
    peak_gib_on: float
    same_tokens: bool


def random_network(preset: str, dtype: torch.dtype, device: str) -> StripedHyena2:
    """Makes a network of a preset with random weights of usual size, drawn on the device."""
    config = striped_hyena2_preset(preset)
    network = instantiate(config, device=torch.device("meta"), dtype=dtype).to_empty(device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("inv_freq"):
                continue
            draw = torch.randn(value.shape, generator=generator, device=device)
            if name.endswith("scale"):
                value.fill_(1.0)
            elif name.endswith("log_poles"):
                value.copy_(-0.05 * torch.exp(draw))
            elif name.endswith((".weight", "taps")):
                value.copy_(draw * value.shape[-1] ** -0.5)
            else:
                value.copy_(draw * 0.1)
        for block in network.blocks:
            if hasattr(block, "inner_mha_cls"):
                block.inner_mha_cls.rotary_emb.reset_parameters()
    return network.eval()


def prompt_of(length: int) -> list[int]:
    """Returns random bases, the same for every call."""
    draw = torch.randint(0, 4, (length,), generator=torch.Generator().manual_seed(length))
    return [b"ACGT"[i] for i in draw.tolist()]


class Timer:
    """Generates one case with one setting and takes the time."""

    def __init__(self, engine: Engine, device: str) -> None:
        self._engine, self._device = engine, device

    def __call__(self, case: tuple[int, int], setting: str) -> tuple[float, list[int]]:
        """Returns seconds and the new tokens."""
        length, count = case
        self._engine.model.use_subquadratic_ops = SETTINGS[setting]
        options = GenerationOptions(max_new_tokens=count)
        self.wait()
        start = time.perf_counter()
        (result,) = self._engine.generate_each([prompt_of(length)], options, ignore_end_of_document=True)
        self.wait()
        return time.perf_counter() - start, result.ids

    @torch.inference_mode()
    def prefill(self, length: int, setting: str) -> float:
        """Returns the seconds in which the network reads a prompt."""
        network = self._engine.network
        self._engine.model.use_subquadratic_ops = SETTINGS[setting]
        ids = torch.tensor([prompt_of(length)], device=self._device)
        state = network.init_state(1, max_length=length)
        self.wait()
        start = time.perf_counter()
        network.encode(ids, state)
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Waits for the device."""
        if self._device == "cuda":
            torch.cuda.synchronize()


def measure(timer: Timer, case: tuple[int, int], batches: int, device: str) -> Row:
    """Measures one case."""
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    tokens: dict[str, list[int]] = {}
    prefill: dict[str, list[float]] = {name: [] for name in SETTINGS}
    peak = dict.fromkeys(SETTINGS, 0.0)
    for _ in range(batches):
        for setting in SETTINGS:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            elapsed, tokens[setting] = timer(case, setting)
            seconds[setting].append(elapsed)
            prefill[setting].append(timer.prefill(case[0], setting))
            if device == "cuda":
                peak[setting] = torch.cuda.max_memory_allocated() / 2**30
    middle = {name: statistics.median(times[2:]) for name, times in seconds.items()}
    return Row(
        prompt_tokens=case[0],
        new_tokens=case[1],
        seconds_off=middle["off"],
        seconds_on=middle["on"],
        faster=middle["off"] / middle["on"] - 1,
        published_faster=PUBLISHED.get(case[0], 0.0),
        prefill_off=statistics.median(prefill["off"][2:]),
        prefill_on=statistics.median(prefill["on"][2:]),
        first_batch_off=seconds["off"][0],
        first_batch_on=seconds["on"][0],
        peak_gib_off=peak["off"],
        peak_gib_on=peak["on"],
        same_tokens=tokens["off"] == tokens["on"],
    )


def backends(engine: Engine) -> Iterator[tuple[str, str, str]]:
    """Yields name and kind of each Hyena layer, and the backend that its fused operator takes at 8,000 tokens."""
    for index, block in enumerate(engine.model.blocks):
        if hasattr(block, "filter"):
            weight = block.projections.weight
            z = torch.empty(1, weight.shape[0], 8000, device=weight.device, dtype=engine.dtype)
            backend = block.filter.explain_projected(z, block.projection_taps).backend
            yield f"blocks.{index}", type(block.filter).__name__, backend


def main() -> None:
    """Parses the arguments, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="1b_base")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--prefill-chunk", type=int, default=8192)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--warm", default="")
    parser.add_argument("--case", action="append", default=[], help="PROMPT+NEW, such as 4096+5")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = random_network(options.preset, getattr(torch, options.dtype), device)
    engine = Engine(network, ByteTokenizer(), max_running=1, prefill_chunk=options.prefill_chunk)
    timer = Timer(engine, device)
    cases = [tuple(map(int, case.split("+"))) for case in options.case] or list(CASES)
    if options.warm:
        setting, _, length = options.warm.partition(":")
        case = next(case for case in cases if case[0] == int(length))
        print(f"cold {options.warm}: {timer(case, setting)[0]:.2f} s", flush=True)
        return
    with torch.inference_mode():
        layers = list(backends(engine))
    print("fused operators run by", sorted({f"{kind}: {backend}" for _, kind, backend in layers}), flush=True)
    rows = []
    for case in cases:
        row = measure(timer, case, options.batches, device)
        rows.append(row)
        print(
            f"{row.prompt_tokens}+{row.new_tokens}: off {row.seconds_off:.4f} s, on {row.seconds_on:.4f} s,"
            f" {row.faster:+.0%} (published {row.published_faster:+.0%}), prefill {row.prefill_off:.4f} and"
            f" {row.prefill_on:.4f} s, peak {row.peak_gib_off:.2f} and"
            f" {row.peak_gib_on:.2f} GiB, first batch {row.first_batch_off:.2f} and {row.first_batch_on:.2f} s,"
            f" same tokens {row.same_tokens}",
            flush=True,
        )
    if options.json:
        name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
        document = {
            "title": "Generation with the fused operators and without",
            "date": time.strftime("%Y-%m-%d"),
            "command": f"python3 {COMMAND} --batches {options.batches} --json FILE",
            "device": name,
            "versions": {"torch": torch.__version__},
            "model": f"{options.preset}, {options.dtype}, random weights",
            "prefill_chunk": options.prefill_chunk,
            "plot": {"y": ["seconds_off", "seconds_on"], "label": ["prompt_tokens", "new_tokens"], "log": False},
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
