"""Measures what bfloat16, FP8 input projections and weights of one byte cost a trained network in accuracy, on a CPU.

usage: rounding.py --network NAME CHECKPOINT FASTA [--network …] [--length 512] [--windows 48] [--variants 300]
                   [--emulate] [--json FILE]

FASTA holds sequence that the network was not trained on; the windows lie evenly spread over it. Everything is compared
with float32: the log-likelihood of every base; which base is the most likely one; how much a change of one base changes
the log-likelihood of its window ("variants"; their rank correlation is Spearman's); and what is generated greedily from
the first half of a window ("same prefix": the share of the tokens up to the first other one). FP8 input projections get
the scales that TransformerEngine's delayed scaling would leave, 448 over the largest number in as many other windows;
they are added exactly, or with --emulate, a hundred times slower, as an H100 adds them too.
"""

import argparse
import copy
import datetime
import itertools
import json
import math
import platform
import random
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from subquad.inference import Engine, GenerationOptions, LoadedCheckpoint, load_checkpoint, save_checkpoint
from subquad.inference.sequence_files import read_records
from subquad.lazy_config import instantiate
from subquad.modules import FP8Linear

COMMAND = "python3 packages/inference/benchmarks/rounding.py"
_LARGEST = 448.0  # of E4M3
_BATCH = 8
_MADE = 64  # tokens of a generation, at most


class Sequences(NamedTuple):
    """What a network is measured on; all have one length."""

    windows: list[str]
    others: list[str]  # to take scales from
    changed: list[tuple[int, str]]  # a window's number, and the window with one other base


@dataclass(frozen=True)
class Found:
    """What one form of a network says of the sequences."""

    logprobs: torch.Tensor  # [window, target] in float32
    likeliest: torch.Tensor  # [window, target]
    deltas: torch.Tensor  # [variant] in float64
    made: list[list[int]]


@dataclass(frozen=True)
class Row:
    """One line of the table: a form of a network beside its float32 form."""

    network: str
    dtype: str
    projections: str
    weights: str
    bits_per_base: float
    extra_bits: float
    mean_difference: float
    largest_difference: float
    same_likeliest: float
    variants_rank_correlation: float
    variants_mean_difference: float
    same_prefix: float


def sequences_of(path: Path, length: int, windows: int, variants: int) -> Sequences:
    """Cuts windows of plain bases out of a FASTA file, and changes bases in some of them."""
    whole = [record.sequence.upper() for record in read_records(path)]
    cuts = [text[start : start + length] for text in whole for start in range(0, len(text) - length + 1, length)]
    cuts = [cut for cut in cuts if set(cut) <= set("ACGT")]
    if len(cuts) < 2 * windows:
        raise SystemExit(f"{path} has {len(cuts)} windows of {length} bases A, C, G and T; {2 * windows} are needed")
    chosen = [cuts[k * len(cuts) // (2 * windows)] for k in range(2 * windows)]
    draw = random.Random(0)
    changed = []
    for number in (draw.randrange(windows) for _ in range(variants)):
        text, place = chosen[2 * number], draw.randrange(length // 4, 3 * length // 4)
        other = draw.choice([base for base in "ACGT" if base != text[place]])
        changed.append((number, text[:place] + other + text[place + 1 :]))
    return Sequences(chosen[::2], chosen[1::2], changed)


@torch.no_grad()
def with_fp8_projections(loaded: LoadedCheckpoint, texts: list[str], folder: Path) -> Path:
    """Writes the same network with FP8 input projections, whose scales come from what it reads in some texts."""
    config = copy.deepcopy(loaded.config)
    config.fp8_projections = True
    network = instantiate(config).to(next(loaded.model.parameters()).dtype)
    network.load_state_dict(loaded.model.state_dict(), strict=False)
    largest: dict[str, float] = {}
    names = [name for name, module in network.named_modules() if isinstance(module, FP8Linear)]

    def watch(name: str):  # type: ignore[no-untyped-def]
        def hook(_module: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
            largest[name] = max(largest.get(name, 0.0), float(inputs[0].abs().max()))

        return hook

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    for text in texts:
        network(torch.tensor([list(text.encode())]))
    for handle in handles:
        handle.remove()
    for name in names:
        module = network.get_submodule(name)
        module.fp8.input_scale.fill_(_LARGEST / largest[name])
        module.fp8.weight_scale.fill_(_LARGEST / float(module.weight.abs().max()))
    save_checkpoint(folder, network, config)
    return folder


def measured(engine: Engine, sequences: Sequences) -> Found:
    """Runs one form of a network over everything."""
    logprobs, likeliest = [], []
    for start in range(0, len(sequences.windows), _BATCH):
        ids = torch.tensor([list(text.encode()) for text in sequences.windows[start : start + _BATCH]])
        logits = engine.forward(ids)[:, :-1]
        logprobs.append(logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0])
        likeliest.append(logits.argmax(-1))
    found = torch.cat(logprobs)
    totals = torch.tensor(engine.score(sequences.windows, batch_size=_BATCH), dtype=torch.float64)
    changed = engine.score([text for _, text in sequences.changed], batch_size=_BATCH)
    deltas = torch.tensor(changed, dtype=torch.float64) - totals[[number for number, _ in sequences.changed]]
    half = len(sequences.windows[0]) // 2
    options = GenerationOptions(max_new_tokens=min(_MADE, half))
    made = engine.generate([text[:half] for text in sequences.windows], options)
    return Found(found, torch.cat(likeliest), deltas, [each.ids for each in made])


def compared(name: str, form: tuple[str, str, str], found: Found, exact: Found) -> Row:
    """Returns the line of one form."""
    difference = (found.logprobs - exact.logprobs).abs()
    bits, exact_bits = (-float(each.logprobs.double().mean()) / math.log(2) for each in (found, exact))
    return Row(
        name,
        *form,
        bits_per_base=bits,
        extra_bits=bits - exact_bits,
        mean_difference=float(difference.mean()),
        largest_difference=float(difference.max()),
        same_likeliest=float((found.likeliest == exact.likeliest).double().mean()),
        variants_rank_correlation=rank_correlation(found.deltas, exact.deltas),
        variants_mean_difference=float((found.deltas - exact.deltas).abs().mean()),
        same_prefix=sum(map(shared_prefix, found.made, exact.made)) / sum(map(len, exact.made)),
    )


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Returns the correlation of the ranks of two lists without ties."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def shared_prefix(a: list[int], b: list[int]) -> int:
    """Returns how many tokens two lists begin with in common."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def forms(emulate: bool) -> list[tuple[str, str, str]]:
    """Returns dtype, projections and weights of every form; float32 itself is the first."""
    kinds = ["plain", "exact", *(["emulate"] if emulate else [])]
    return list(itertools.product(("float32", "bfloat16"), kinds, ("stored", "fp8")))


def rows_of(name: str, checkpoint: Path, sequences: Sequences, *, emulate: bool) -> Iterator[Row]:
    """Measures every form of a network."""
    exact: Found | None = None
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_checkpoint(checkpoint, device="cpu", dtype="float32")
        rounded = with_fp8_projections(loaded, sequences.others, Path(folder, "fp8"))
        for form in forms(emulate):
            dtype, projections, weights = form
            path, option = (checkpoint, "auto") if projections == "plain" else (rounded, projections)
            engine = Engine.from_checkpoint(
                path, device="cpu", dtype=dtype, fp8_projections=option, weights=weights, max_running=_BATCH
            )
            found = measured(engine, sequences)
            exact = found if exact is None else exact
            yield compared(name, form, found, exact)


def main() -> None:
    """Parses the arguments, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs=3, action="append", required=True, metavar=("NAME", "CHECKPOINT", "FASTA"))
    parser.add_argument("--length", type=int, default=512, help="bases of a window")
    parser.add_argument("--windows", type=int, default=48)
    parser.add_argument("--variants", type=int, default=300)
    parser.add_argument("--emulate", action="store_true", help="also add FP8 products as an H100 does")
    parser.add_argument("--made-by", default=COMMAND, help="the commands that the file is to name")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record = {
        "title": "What rounding costs trained networks",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": options.made_by,
        "device": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "windows": f"{options.windows} of {options.length} bases",
        "variants": options.variants,
        "plot": {"y": "mean_difference", "label": ["network", "dtype", "projections", "weights"]},
        "rows": [],
    }
    for name, checkpoint, fasta in options.network:
        sequences = sequences_of(Path(fasta), options.length, options.windows, options.variants)
        for row in rows_of(name, Path(checkpoint), sequences, emulate=options.emulate):
            print(
                f"{name} {row.dtype:8s} projections {row.projections:7s} weights {row.weights:6s}"
                f" {row.bits_per_base:.4f} bits a base ({row.extra_bits:+.5f}), nats differ by"
                f" {row.mean_difference:.5f}, at most {row.largest_difference:.4f}; likeliest base the same"
                f" {row.same_likeliest:.4f}; variants: rank correlation {row.variants_rank_correlation:.4f}, differ by"
                f" {row.variants_mean_difference:.5f}; same prefix {row.same_prefix:.4f}",
                flush=True,
            )
            record["rows"].append({k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(row).items()})
            if options.json:  # after every row, so that none is lost
                options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
