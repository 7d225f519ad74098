"""An adapter put back on its base: as a network with corrections, or merged into a plain checkpoint."""

from pathlib import Path

import torch
from torch import nn

from subquad.inference import LoadedCheckpoint, load_checkpoint, save_checkpoint
from subquad.inference.checkpoint.files import check_new_directory
from subquad.modules import ConfigurationError, adapt_linears, merge_low_rank
from subquad.recipes.errors import AdapterBaseError, AdapterError, SettingError
from subquad.recipes.finetuning.adapter_file import Adapter, BaseCheckpoint, read_adapter

_DTYPES = {"auto": None} | {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


def load_adapted(path: str | Path, *, base: str | Path | None = None) -> tuple[LoadedCheckpoint, Adapter]:
    """Loads the base of an adapter on the CPU and gives it the corrections.

    Args:
      path: The adapter's file.
      base: The native checkpoint that it corrects; None looks where that was when the adapter was trained.

    Returns:
      The network with its `LowRankLinear` layers, in evaluation mode, and what the file says. 16-bit weights are
      float32 then, and corrections have the type of the weights.

    Raises:
      MissingFileError, AdapterError: See `read_adapter`.
      AdapterBaseError: The base is not there, or is another one.
      InferenceError: It cannot be loaded.
    """
    adapter, tensors = read_adapter(path)
    place = Path(base or adapter.base.path)
    if base is None and not place.is_dir():
        raise AdapterBaseError(f"{path}: its base {place} is not there; give the folder where it is now (--base)")
    adapter.base.require(BaseCheckpoint.at(place), what=str(path))
    loaded = load_checkpoint(place, device="cpu")
    _put_on(loaded.model, adapter, tensors, path)
    return loaded, adapter


def merge_adapter(
    path: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str = "auto",
    overwrite: bool = False,
) -> None:
    """Writes a native checkpoint with the sums of the base's weights and the corrections.

    Args:
      path, base: See `load_adapted`.
      output: The folder to make.
      dtype: What the sums are rounded to, once: `"float32"`, `"bfloat16"`, `"float16"` or `"float64"`; `"auto"` leaves
        them as `load_adapted` makes them.
      overwrite: Whether a checkpoint there is replaced.

    Raises:
      SettingError: `dtype` is none of them.
      CheckpointExists: `output` exists and may not be replaced.
      MissingFileError, AdapterError, AdapterBaseError, InferenceError: See `load_adapted`.
      OSError: The output cannot be written.
    """
    if dtype not in _DTYPES:
        raise SettingError("dtype", dtype, ", ".join(_DTYPES))
    check_new_directory(Path(output), overwrite=overwrite, marker="metadata.json")
    loaded, adapter = load_adapted(path, base=base)
    merge_low_rank(loaded.model)
    loaded.model.to(_DTYPES[dtype])
    kept = {name: loaded.metadata[name] for name in ("max_sequence_tokens",) if name in loaded.metadata}
    metadata = {**kept, "recipe": adapter.recipe}
    name = loaded.metadata["tokenizer"]["name"]
    save_checkpoint(output, loaded.model, loaded.config, metadata=metadata, tokenizer=name, overwrite=overwrite)


@torch.no_grad()
def _put_on(network: nn.Module, adapter: Adapter, tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """Adapts a network and fills its corrections."""
    try:
        adapt_linears(network, adapter.targets, rank=adapter.rank, alpha=adapter.alpha)
    except ConfigurationError as error:
        raise AdapterError(f"{path}: {error}") from error
    named = dict(network.named_parameters())
    for name, tensor in tensors.items():
        if name not in named or named[name].shape != tensor.shape:
            accepted = tuple(named[name].shape) if name in named else "no such tensor"
            raise AdapterError(f"{path}: {name} has the shape {tuple(tensor.shape)}; accepted is {accepted}")
        named[name].copy_(tensor)
