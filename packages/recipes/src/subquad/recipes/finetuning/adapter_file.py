"""The file of an adapter: the tensors of its corrections in safetensors, what they are and whose in the header."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from subquad.inference.checkpoint import read_summary
from subquad.recipes._atomic import write_atomically
from subquad.recipes.errors import AdapterBaseError, AdapterError, MissingFileError

ADAPTER_FILE = "adapter.safetensors"
_FIELD = "subquad-adapter"
_FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BaseCheckpoint:
    """The native checkpoint whose weights an adapter corrects.

    Attributes:
      path: Where it was when the adapter was trained.
      weights_sha256: Of its weights, as its metadata has it.
      config_sha256: Of its `config.yaml`.
    """

    path: str
    weights_sha256: str
    config_sha256: str

    @classmethod
    def at(cls, path: str | Path) -> "BaseCheckpoint":
        """Describes a checkpoint; its weights are not read.

        Raises:
          CheckpointError: There is none, or its metadata are damaged.
        """
        metadata = read_summary(path).metadata
        config = metadata["files"]["config.yaml"]["sha256"]
        return cls(path=str(Path(path).absolute()), weights_sha256=metadata["weights_sha256"], config_sha256=config)

    def require(self, found: "BaseCheckpoint", *, what: str) -> None:
        """Refuses another checkpoint than this one, wherever it lies; `what` was made for this one.

        Raises:
          AdapterBaseError: Weights or configuration differ.
        """
        for name in ("weights_sha256", "config_sha256"):
            if getattr(found, name) != getattr(self, name):
                got, own = getattr(found, name), getattr(self, name)
                raise AdapterBaseError(
                    f"{what}: {found.path} is another base, its {name} is {got}; accepted is the checkpoint that this "
                    f"was trained on, {own}, which was at {self.path}"
                )


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What an adapter's file says beside its tensors.

    Attributes:
      base: What it corrects.
      rank: See `LoraSettings`.
      alpha: See `LoraSettings`.
      targets: Full names of the corrected layers.
      recipe: What it was trained on, and how good it is.
    """

    base: BaseCheckpoint
    rank: int
    alpha: float
    targets: list[str]
    recipe: dict[str, Any]


def adapter_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters that take gradients, by name; in an adapted network those of its corrections."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def save_adapter(path: Path, network: nn.Module, adapter: Adapter) -> None:
    """Writes the corrections of a network to a file; it appears complete or not at all.

    Raises:
      OSError: It cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(network).items()}
    described = json.dumps({"format_version": _FORMAT_VERSION, **asdict(adapter)})
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {_FIELD: described}))


def read_adapter(path: str | Path) -> tuple[Adapter, dict[str, Tensor]]:
    """Reads an adapter's file.

    Args:
      path: What a run with LoRA wrote, `adapter.safetensors`.

    Returns:
      What the file says of itself, and its tensors: for each target, `<target>.down` `[rank, input]` and `<target>.up`
      `[output, rank]`.

    Raises:
      MissingFileError: There is no such file.
      AdapterError: It is damaged, no adapter, or of a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(path, what="adapter")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_FIELD)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise AdapterError(f"{path} is damaged, or no safetensors file: {error}") from error
    if text is None:
        raise AdapterError(f"{path} is no adapter: its header has no field {_FIELD!r}")
    adapter = _described(path, text)
    expected = {f"{target}.{part}" for target in adapter.targets for part in ("down", "up")}
    if expected != set(tensors):
        name = min(expected ^ set(tensors))
        raise AdapterError(f"{path}: {name} is {'missing' if name in expected else 'of no target'}")
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or tensor.shape[0 if name.endswith(".down") else 1] != adapter.rank:
            raise AdapterError(
                f"{path}: {name} has the shape {tuple(tensor.shape)}; accepted is one of rank {adapter.rank}"
            )
    return adapter, tensors


def _described(path: Path, text: str) -> Adapter:
    """Reads the field of the header."""
    try:
        fields: Mapping[str, Any] = json.loads(text)
        version = fields["format_version"]
        if version != _FORMAT_VERSION:
            raise AdapterError(f"{path}: format_version is {version!r}; this version reads {_FORMAT_VERSION}")
        base = BaseCheckpoint(**{name: str(value) for name, value in fields["base"].items()})
        return Adapter(
            base=base,
            rank=int(fields["rank"]),
            alpha=float(fields["alpha"]),
            targets=[str(target) for target in fields["targets"]],
            recipe=dict(fields["recipe"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(f"{path}: the field {_FIELD!r} of its header cannot be read: {error!r}") from error
