"""A checkpoint opened for reading, whatever its format: what every conversion starts from."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subquad.inference.checkpoint.native import build, check_tensors, expected_tensors, from_text, read_tensors
from subquad.inference.checkpoint.report import SAME, MappedTensor
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.checkpoint.summary import TRAVELLING, read_summary
from subquad.inference.errors import CheckpointConfigError, CheckpointTensorError
from subquad.lazy_config import Config
from subquad.modules import StripedHyena2

EMBEDDING = "embedding_layer.weight"


@dataclass(frozen=True)
class TensorSource:
    """The tensors of a checkpoint under the names and in the shapes of the native format.

    Attributes:
      where: What errors call it.
      config: The network; its ``filter_parameters`` is the form that the filters are stored in.
      dtype: The type of all tensors but filters and frequencies.
      entries: Every tensor by name; each is read when its turn comes.
      report: What became of each tensor of the file; targets are native names.
      metadata: More fields for the native metadata.
    """

    where: str
    config: Config[Any]
    dtype: torch.dtype
    entries: dict[str, TensorEntry]
    report: list[MappedTensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> StripedHyena2:
        """The network without weights.

        Raises:
          CheckpointConfigError: It is no StripedHyena 2.
        """
        return striped_hyena2_of(self.config, self.dtype, self.where)


@contextmanager
def open_native(path: Path) -> Iterator[TensorSource]:
    """Opens a native checkpoint after checking all of it, digests too.

    Raises:
      CheckpointError: It is no good checkpoint; see `load_checkpoint`.
    """
    summary = read_summary(path)
    config = from_text(summary.config_text, str(summary.path))
    dtype = getattr(torch, summary.metadata["dtype"])
    location = check_tensors(summary, expected_tensors(build(config, "meta", dtype, summary.path)))
    summary.verify_hashes()
    entries = {name: entry_of(name, tensor) for name, tensor in read_tensors(summary, location)}
    kept = {name: summary.metadata[name] for name in TRAVELLING if name in summary.metadata}
    yield TensorSource(str(path), config, dtype, entries, [MappedTensor(n, n, SAME) for n in entries], kept)


def entry_of(name: str, value: object, *, where: str = "the checkpoint") -> TensorEntry:
    """Returns the entry of a tensor that was read, or of one whose turn has not come.

    Raises:
      CheckpointTensorError: It is no dense tensor of floating-point numbers.
    """
    if isinstance(value, TensorEntry) and value.dtype.is_floating_point:
        return value._replace(name=name)
    if isinstance(value, Tensor) and value.is_meta:
        raise CheckpointTensorError(f"{where}: {name} has no numbers, it was saved from the meta device")
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
        dense = f"a {value.layout} tensor of {value.dtype}" if isinstance(value, Tensor) else None
        what = dense or f"a {value.dtype if isinstance(value, TensorEntry) else type(value).__name__}"
        raise CheckpointTensorError(f"{where}: {name} is {what}; accepted: dense floating-point tensors")
    return TensorEntry(name, value.shape, value.dtype, lambda: value)


def made_entry(name: str, form: tuple[torch.Size, torch.dtype], make: Callable[[], Tensor]) -> TensorEntry:
    """Returns the entry of a tensor that is made of others and rounded to the type it is stored in."""
    shape, dtype = form
    return TensorEntry(name, shape, dtype, lambda: make().to(dtype))


def striped_hyena2_of(config: Config[Any], dtype: torch.dtype, where: str) -> StripedHyena2:
    """Builds the network on the meta device.

    Raises:
      CheckpointConfigError: It is no StripedHyena 2, the only network that other formats describe.
    """
    network = build(config, "meta", dtype)
    if not isinstance(network, StripedHyena2):
        raise CheckpointConfigError(f"{where}: the config builds a {type(network).__name__}; accepted: StripedHyena2")
    return network
