"""The native checkpoint: a directory of ``config.yaml``, safetensors and ``metadata.json``; nothing is unpickled."""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from subquad.inference.checkpoint.files import atomic_directory, sha256_of
from subquad.inference.checkpoint.fp8_option import check_fp8_option, plain_config, use_sums
from subquad.inference.checkpoint.names import FULL_PRECISION, TensorRule, disk_name, rule_of
from subquad.inference.checkpoint.stream import DTYPE_OF_CODE, TensorEntry, write_safetensors
from subquad.inference.checkpoint.summary import (
    CONFIG_FILE,
    FORMAT,
    FORMAT_VERSION,
    INDEX_FILE,
    METADATA_FILE,
    RESERVED,
    WEIGHTS_FILE,
    CheckpointSummary,
    check_counts,
    read_summary,
)
from subquad.inference.errors import CheckpointConfigError, CheckpointTensorError, InvalidOption
from subquad.inference.tokenizer import ByteTokenizer, NucleotideTokenizer, tokenizer_of
from subquad.lazy_config import Config, from_yaml, instantiate, to_yaml
from subquad.lazy_config.errors import LazyConfigError
from subquad.modules import ChannelShards, round_linears
from subquad.parallel import own_part

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
ALLOWED_TARGETS = ("subquad.modules.",)
_SHARD_BYTES = 5 << 30


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A network read from disk.

    Attributes:
      model: The network, in evaluation mode.
      config: The tree that built it.
      tokenizer: Its tokenizer.
      metadata: The whole of ``metadata.json``.
    """

    model: nn.Module
    config: Config[Any]
    tokenizer: ByteTokenizer | NucleotideTokenizer
    metadata: dict[str, Any]


def save_checkpoint(
    path: str | PathLike[str],
    model: nn.Module,
    config: Config[Any],
    *,
    metadata: Mapping[str, Any] | None = None,
    tokenizer: str = "byte",
    overwrite: bool = False,
    max_shard_bytes: int = _SHARD_BYTES,
    allowed_targets: tuple[str, ...] = ("subquad.",),
) -> None:
    """Writes a checkpoint directory; it appears complete or not at all.

    Args:
      path: The directory to make.
      model: The network; tensors keep their types.
      config: The tree that builds it; it must describe exactly this network.
      metadata: More fields for ``metadata.json``, e.g. ``{"max_sequence_tokens": 8192}``.
      tokenizer: ``"byte"`` or ``"nucleotide"``; what `load_checkpoint` will give.
      overwrite: Replace an existing checkpoint; the old one stays until the new one is complete.
      max_shard_bytes: Above this size the weights are split into several files with an index.
      allowed_targets: Beginnings of the class names that ``config`` may build; reading it takes the same names.

    Raises:
      CheckpointExists: ``path`` exists and may not be replaced.
      CheckpointConfigError: The config cannot be written or built, or ``metadata`` uses a reserved field.
      CheckpointTensorError: The config describes another network.
      InvalidOption: ``model`` or what the config builds reads no tokens, its type is none of the format, or the
        tokenizer is unknown or needs more rows of the embedding than there are.
    """
    dtype = str(embedding_of("model", model).weight.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InvalidOption("model.dtype", dtype, " or ".join(", ".join(DTYPES).rsplit(", ", 1)))
    named = model.state_dict()
    entries = [_entry(name, tensor, rule_of(name, named)) for name, tensor in named.items()]
    facts = {
        "dtype": dtype,
        "parameters": sum(p.numel() for p in model.parameters()),
        "filter_parameters": getattr(model, "filter_parameters", "poles"),
    }
    write_checkpoint(
        path,
        config,
        entries,
        facts,
        metadata=metadata,
        tokenizer=tokenizer,
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
        allowed_targets=allowed_targets,
    )


def write_checkpoint(
    path: str | PathLike[str],
    config: Config[Any],
    entries: Sequence[TensorEntry],
    facts: Mapping[str, Any],
    *,
    metadata: Mapping[str, Any] | None = None,
    tokenizer: str = "byte",
    overwrite: bool = False,
    max_shard_bytes: int = _SHARD_BYTES,
    allowed_targets: tuple[str, ...] = ("subquad.",),
) -> None:
    """Writes a checkpoint directory from tensors that need not be in memory.

    Args:
      path, config, metadata, tokenizer, overwrite, max_shard_bytes, allowed_targets: See `save_checkpoint`.
      entries: The tensors under their names on disk.
      facts: The fields ``dtype``, ``parameters`` and ``filter_parameters`` of the metadata.

    Raises:
      See `save_checkpoint`.
    """
    extra = dict(metadata or {})
    if taken := sorted(set(extra) & set(RESERVED)):
        raise CheckpointConfigError(f"metadata has the field {taken[0]!r}, which is written by the format itself")
    check_counts("metadata", extra)
    try:
        text = to_yaml(config)
    except LazyConfigError as error:
        raise CheckpointConfigError(f"the config cannot be written: {_one_line(error)}") from error
    network = build(from_text(text, "the config", allowed_targets), "meta", DTYPES[facts["dtype"]])
    rows = embedding_of("config", network).num_embeddings
    expected = expected_tensors(network)
    compare_tensors("the network", {e.name: (e.shape, e.dtype) for e in entries}, expected)
    order = {name: index for index, name in enumerate(expected)}
    entries = sorted(entries, key=lambda entry: order[entry.name])
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {name: _version(name) for name in ("subquad-inference", "torch")},
        **facts,
        "tokenizer": {"name": tokenizer, "vocab_size": tokenizer_of(tokenizer, rows).vocab_size},
        **extra,
    }
    with atomic_directory(Path(path), overwrite=overwrite, marker=METADATA_FILE) as folder:
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        digest_file = _write_weights(folder, entries, max_shard_bytes)
        files = {f.name: {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in sorted(folder.iterdir())}
        document |= {"files": files, "weights_sha256": files[digest_file]["sha256"]}
        (folder / METADATA_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def embedding_of(field: str, model: nn.Module) -> nn.Embedding:
    """Returns the layer that gives each token a vector.

    Raises:
      InvalidOption: There is none; ``field`` says what has none.
    """
    found = getattr(model, "embedding_layer", None)
    if not isinstance(found, nn.Embedding):
        accepted = "a network of tokens, whose embedding_layer is an nn.Embedding, such as StripedHyena2"
        raise InvalidOption(field, type(model).__name__, accepted)
    return found


def load_checkpoint(
    path: str | PathLike[str],
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    verify: bool = True,
    fp8_projections: str = "auto",
    weights: str = "stored",
    allowed_targets: tuple[str, ...] = ALLOWED_TARGETS,
    shards: ChannelShards | None = None,
) -> LoadedCheckpoint:
    """Reads a checkpoint directory after checking all of it: config, names, shapes, types, then digests.

    Args:
      path: The directory.
      device: ``"auto"`` takes a CUDA device where there is one, else the CPU.
      dtype: ``"auto"`` takes the stored type, on the CPU float32 in place of a 16-bit one. Poles stay float32.
      verify: Compare the SHA-256 of every file, which reads all of it once more.
      fp8_projections: Of a network that has them, as published 1b, 20b and 40b ones do: ``"auto"`` runs them on a GPU
        of compute capability 9.0 and nowhere else, ``"emulate"`` gives the same on any device, slowly,
        ``"exact"`` rounds as they do and adds exactly, ``"off"`` makes plain projections of them.
      weights: ``"fp8"`` rounds every linear layer to one byte a weight, see ``round_linears``; ``"stored"`` does not.
      allowed_targets: Beginnings of the class names that ``config.yaml`` may build.
      shards: The ranks that share the network; of every tensor only this rank's part is read. None for all of it.

    Raises:
      CheckpointNotFound, CheckpointConfigError, CheckpointTensorError, CheckpointHashMismatch: See each.
      FP8Unavailable: The network wants a device that this one is not; the text says what each way out costs.
      InvalidOption: The device, the dtype, ``fp8_projections`` or ``weights`` is not known or not there.
    """
    if weights not in ("stored", "fp8"):
        raise InvalidOption("weights", weights, "'stored' or 'fp8'")
    summary = read_summary(Path(path))
    tokenizer = summary.tokenizer
    config = from_text(summary.config_text, str(summary.path / CONFIG_FILE), allowed_targets)
    stored = DTYPES.get(summary.metadata["dtype"])
    if stored is None:
        raise CheckpointConfigError(
            f"{summary.path / METADATA_FILE}: dtype is {summary.metadata['dtype']!r}; accepted: {', '.join(DTYPES)}"
        )
    place = resolve_device(device)
    kind = resolve_dtype(dtype, stored, place)
    network = build(config, "meta", stored, summary.path)
    has_fp8 = bool(getattr(network, "fp8_projections", False))
    check_fp8_option(fp8_projections, place, used=has_fp8)
    expected = expected_tensors(network)
    location = check_tensors(summary, expected)
    if verify:
        summary.verify_hashes()
    if has_fp8 and fp8_projections == "off":
        config = plain_config(config)
    rows = embedding_of(str(summary.path / CONFIG_FILE), network).num_embeddings
    if tokenizer.vocab_size != rows:
        problem = f"tokenizer has {tokenizer.vocab_size} ids; accepted: {rows}, the rows of the embedding"
        raise CheckpointConfigError(f"{summary.path / METADATA_FILE}: {problem}")
    model = build(config, place, kind, summary.path, shards)
    fill(model, read_tensors(summary, location, {} if shards is None else own_parts(model, expected, shards)))
    use_sums(model, fp8_projections)
    if weights == "fp8":
        round_linears(model)
    return LoadedCheckpoint(model.eval(), config, tokenizer, summary.metadata)


def from_text(text: str, where: str, allowed: tuple[str, ...] = ("subquad.",)) -> Config[Any]:
    """Parses a config.

    Raises:
      CheckpointConfigError: It is no YAML, holds an unknown field or a class that is not allowed.
    """
    try:
        config = from_yaml(text, allowed=allowed, name=where)
    except LazyConfigError as error:
        raise CheckpointConfigError(_one_line(error)) from error
    if not isinstance(config, Config):
        raise CheckpointConfigError(f"{where}: the text is no config of a network but a {type(config).__name__}")
    return config


def build(
    config: Config[Any],
    device: str | torch.device,
    dtype: torch.dtype,
    where: Path | None = None,
    shards: ChannelShards | None = None,
) -> nn.Module:
    """Builds the network of a config, or this rank's part of it.

    Raises:
      CheckpointConfigError: The values do not fit, or what is built is no network.
    """
    prefix = "the config" if where is None else str(where / CONFIG_FILE)
    try:
        shared = {} if shards is None else {"shards": shards}
        model = instantiate(config, device=torch.device(device), dtype=dtype, **shared)
    except (LazyConfigError, ValueError, TypeError) as error:
        raise CheckpointConfigError(f"{prefix}: {_one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise CheckpointConfigError(f"{prefix}: builds a {type(model).__name__}, not a network")
    return model


def expected_tensors(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Returns name, shape and type on disk of every tensor of a network (which may be on the meta device)."""
    named = model.state_dict()
    found = {}
    for name, tensor in named.items():
        rule = rule_of(name, named)
        found[disk_name(name, rule)] = (rule.to_disk(tensor).shape, tensor.dtype)
    return found


def check_tensors(summary: CheckpointSummary, expected: dict[str, tuple[torch.Size, torch.dtype]]) -> dict[str, Path]:
    """Compares the headers of the weight files with the network; returns the file of each tensor.

    Raises:
      CheckpointTensorError: A tensor is missing, unknown or different, or a file is damaged.
    """
    found: dict[str, tuple[torch.Size, torch.dtype]] = {}
    location: dict[str, Path] = {}
    for file in (summary.path / name for name in summary.weight_files):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    if name in location:
                        raise CheckpointTensorError(f"{file}: tensor {name} is in {location[name].name} as well")
                    described = tensors.get_slice(name)
                    found[name] = (
                        torch.Size(described.get_shape()),
                        DTYPE_OF_CODE.get(described.get_dtype(), torch.uint8),
                    )
                    location[name] = file
        except SafetensorError as error:
            raise CheckpointTensorError(f"{file} is damaged: {error}") from error
    compare_tensors(str(summary.path), found, expected)
    return location


def own_parts(
    model: nn.Module, expected: Mapping[str, tuple[torch.Size, torch.dtype]], shards: ChannelShards
) -> dict[str, tuple[slice, ...]]:
    """Returns by name on disk where a rank's part lies in each tensor of which it does not hold the whole.

    What it does not hold at all is an empty part.
    """
    own, parts = expected_tensors(model), {}
    for name, (whole, _) in expected.items():
        if name not in own:
            parts[name] = (slice(0, 0),)
        elif own[name][0] != whole:
            parts[name] = own_part(whole, own[name][0], rank=shards.rank)
    return parts


def read_tensors(
    summary: CheckpointSummary, location: Mapping[str, Path], parts: Mapping[str, tuple[slice, ...]] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yields the disk name and the memory-mapped tensor of every entry of ``location``, cut to its part if it has one.

    Only what is yielded is read.
    """
    parts = parts or {}
    for file in (summary.path / name for name in summary.weight_files):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if location.get(name) == file:
                    yield name, tensors.get_slice(name)[parts[name]] if name in parts else tensors.get_tensor(name)


@torch.no_grad()
def fill(model: nn.Module, tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Copies disk tensors into a network, each into the type it has there."""
    named = model.state_dict()
    targets: dict[str, tuple[Tensor, TensorRule]] = {}
    for name, tensor in named.items():
        rule = rule_of(name, named)
        targets[disk_name(name, rule)] = (tensor, rule)
    for name, tensor in tensors:
        if name in targets:  # scales have no place in a network whose FP8 projections are off
            target, rule = targets[name]
            target.copy_(rule.to_memory(tensor))


def resolve_device(device: str | torch.device) -> torch.device:
    """Returns the device that is meant.

    Raises:
      InvalidOption: It is not known or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = torch.device("meta")
    if resolved.type not in ("cpu", "cuda"):
        raise InvalidOption("device", str(device), "'auto', 'cpu', 'cuda' or 'cuda:N'")
    if resolved.type == "cuda" and not (
        torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count()
    ):
        count = torch.cuda.device_count()
        raise InvalidOption("device", str(device), f"'cpu', or one of the {count} CUDA devices that torch sees")
    return resolved


def resolve_dtype(dtype: str | torch.dtype, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Returns the type that is meant for the weights.

    Raises:
      InvalidOption: It is not one of float32, bfloat16, float16 and float64.
    """
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" and stored.itemsize == 2 else stored
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InvalidOption("dtype", name, f"'auto' or one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _entry(name: str, tensor: Tensor, rule: TensorRule) -> TensorEntry:
    shape = rule.to_disk(tensor.to("meta")).shape
    return TensorEntry(disk_name(name, rule), shape, tensor.dtype, lambda: rule.to_disk(tensor))


def compare_tensors(
    where: str,
    found: Mapping[str, tuple[torch.Size, torch.dtype]],
    expected: Mapping[str, tuple[torch.Size, torch.dtype]],
) -> None:
    """Compares shape and type of tensors with what a config asks for.

    Raises:
      CheckpointTensorError: One is missing, unknown or different; it names the first and counts the others.
    """
    problems = [f"tensor {n} is missing (expected {_form(expected[n])})" for n in expected if n not in found]
    problems += [f"tensor {n} ({_form(found[n])}) is unknown to the config" for n in found if n not in expected]
    for name in sorted(set(found) & set(expected)):
        if found[name] != expected[name]:
            because = "; poles and residues are float32" if name.endswith(FULL_PRECISION) else ""
            problems.append(
                f"tensor {name} is {_form(found[name])}, the config asks for {_form(expected[name])}{because}"
            )
    if problems:
        more = f" (and {len(problems) - 1} more such problems)" if len(problems) > 1 else ""
        raise CheckpointTensorError(f"{where}: {problems[0]}{more}")


def _form(described: tuple[torch.Size, torch.dtype]) -> str:
    return f"{list(described[0])} {str(described[1]).removeprefix('torch.')}"


def _write_weights(folder: Path, entries: Sequence[TensorEntry], limit: int) -> str:
    """Writes the tensors and returns the name of the file whose digest stands for all of them."""
    shards: list[list[TensorEntry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(e.nbytes for e in shards[-1]) + entry.nbytes > limit:
            shards.append([])
        shards[-1].append(entry)
    if len(shards) == 1:
        write_safetensors(folder / WEIGHTS_FILE, entries)
        return WEIGHTS_FILE
    place: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, shard)
        place |= {entry.name: file for entry in shard}
    digests = {file: sha256_of(folder / file) for file in sorted(set(place.values()))}
    sizes = {"total_size": sum(entry.nbytes for entry in entries), "sha256": digests}
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": sizes, "weight_map": place}, indent=2) + "\n")
    return INDEX_FILE


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
