"""Scales of FP8 projections, read from the state that TransformerEngine stores and written back to it.

The state is a dictionary with ``scale_fwd`` of a linear layer's input, weight and output (a number is multiplied by its
scale before it is rounded to E4M3), their ``amax_history_fwd``, and the same for gradients. It comes as the bytes of
``torch.save`` in a buffer, or as those of ``pickle`` in a tensor of bytes.

Source: the PyTorch API of NVIDIA TransformerEngine, ``get_extra_state`` and "Delayed scaling" of its FP8 primer.
"""

import io
import pickle
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subquad.inference.checkpoint.pickle_work import refuse_endless_keys
from subquad.inference.checkpoint.report import MappedTensor
from subquad.inference.checkpoint.restricted_pickle import load_inert
from subquad.inference.checkpoint.saved_archive import load_archive
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.errors import COST_WITHOUT_FP8, CheckpointError, CheckpointTensorError

HISTORY_LENGTH = 16
_ZIP = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # one behind the other in the old form of torch.save: magic, version, system, object, storages
_LEGACY_STORAGE = ("torch.storage", "_load_from_bytes")
_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_CPU = ("torch", "device")


class Fp8Scales(NamedTuple):
    """What the input and the weight of a projection are multiplied by before they are rounded; float32 scalars."""

    input_scale: Tensor
    weight_scale: Tensor


def read_scales(where: str, value: object) -> Fp8Scales | None:
    """Reads the scales of one linear layer; None where the state is empty, as it is without FP8.

    Args:
      where: What errors call it.
      value: The stored state: a buffer, bytes, a tensor of bytes, a dictionary or None.

    Raises:
      CheckpointError: It is none of these, or would run code.
      CheckpointTensorError: Its scales are not positive numbers.
    """
    state = _state_of(where, value)
    if state is None or (isinstance(state, dict) and "scale_fwd" not in state):
        return None
    if not isinstance(state, dict):
        raise CheckpointError(f"{where}: holds a {type(state).__name__}; accepted: a dictionary with scale_fwd")
    scale = state["scale_fwd"]
    if not isinstance(scale, Tensor) or scale.ndim != 1 or len(scale) < 2:
        raise CheckpointTensorError(f"{where}: scale_fwd is no vector of the scales of input, weight and output")
    scale = scale.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(scale[:2]).all() and (scale[:2] > 0).all()):
        raise CheckpointTensorError(f"{where}: scale_fwd is {scale[:2].tolist()}; accepted: positive numbers")
    return Fp8Scales(scale[0].clone(), scale[1].clone())


def scale_entries(
    where: str, states: Mapping[str, tuple[str, object]], forms: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> tuple[dict[str, TensorEntry], list[MappedTensor]]:
    """Makes the native tensors ``projections.fp8.*`` of stored states, where the network has a place for them.

    Args:
      where: What errors call the file.
      states: Name and value of the stored state of each projection, by the projection's native name.
      forms: Shape and type of every native tensor of the network.

    Raises:
      CheckpointTensorError: The network needs scales that are not there.
    """
    entries: dict[str, TensorEntry] = {}
    report: list[MappedTensor] = []
    for projection, (name, value) in states.items():
        scales = read_scales(f"{where}: {name}", value)
        wanted = f"{projection}.fp8.input_scale" in forms
        if scales is None or not wanted:
            why = "left out: empty" if scales is None else "left out: FP8 scales, which the config does not use"
            report.append(MappedTensor(name, None, why))
            continue
        for index, (end, scale) in enumerate(scales._asdict().items()):
            target = f"{projection}.fp8.{end}"
            entries[target] = TensorEntry(target, scale.shape, scale.dtype, partial(_given, scale))
            report.append(MappedTensor(name, target, f"scale_fwd[{index}]"))
    if missing := [name for name in forms if _is_scale(name) and name not in entries]:
        layers = {name.rpartition(".fp8.")[0] for name in missing}
        raise CheckpointTensorError(
            f"{where}: the config has FP8 projections, and {len(layers)} of them have no scales, e.g. {min(layers)}; "
            f"without_fp8 goes on with plain ones ({COST_WITHOUT_FP8})"
        )
    return entries, report


def _is_scale(name: str) -> bool:
    return ".projections.fp8." in name


def _given(scale: Tensor) -> Tensor:
    return scale


def extra_state(scales: Fp8Scales) -> io.BytesIO:
    """Writes the state that TransformerEngine reads; histories are empty, so that it keeps the scales."""
    forward = torch.stack([scales.input_scale.float(), scales.weight_scale.float(), torch.ones(())])
    backward = torch.ones(2)
    buffer = io.BytesIO()
    torch.save(
        {
            "scale_fwd": forward,
            "scale_inv_fwd": 1 / forward,
            "amax_history_fwd": torch.zeros(HISTORY_LENGTH, 3),
            "scale_bwd": backward,
            "scale_inv_bwd": 1 / backward,
            "amax_history_bwd": torch.zeros(HISTORY_LENGTH, 2),
            "extra_fp8_variables": {"num_gemms": 1},
        },
        buffer,
    )
    buffer.seek(0)
    return buffer


def _state_of(where: str, value: object) -> Any:
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, io.BytesIO):
        value = value.getvalue()
    elif isinstance(value, Tensor) and value.dtype == torch.uint8:
        value = value.cpu().contiguous().numpy().tobytes()
    if not isinstance(value, bytes):
        raise CheckpointError(f"{where}: is a {type(value).__name__}; accepted: bytes with the state of an FP8 layer")
    if not value:
        return None
    if value.startswith(_ZIP):
        return load_archive(value, where, records=_is_recipe)
    return _pickled(where, value)


def _pickled(where: str, data: bytes) -> Any:
    """Reads what ``pickle`` wrote; storages inside it are files of the old form of ``torch.save``."""
    functions = {
        _LEGACY_STORAGE: lambda inner: _legacy_storage(where, inner),
        _REBUILD: _rebuilt,
        _CPU: lambda *_: None,
    }
    return load_inert(data, where, records=_is_recipe, functions=functions)


def _is_recipe(module: str, name: str) -> bool:
    return module.split(".")[0] == "transformer_engine"


def _legacy_storage(where: str, data: object) -> Any:
    if not isinstance(data, bytes):
        raise CheckpointError(f"{where}: a storage is a {type(data).__name__}; accepted: bytes")
    if data.startswith(_ZIP):
        raise CheckpointError(f"{where}: a storage is an archive; accepted: the old form of torch.save")
    try:
        pickles = io.BytesIO(data)
        for _ in range(_LEGACY_PICKLES):
            refuse_endless_keys(pickles, where, size=len(data), spells_references=True)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise CheckpointError(f"{where}: a storage is damaged: {str(error).partition('. ')[0]}") from None


def _rebuilt(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.empty(0, dtype=storage.dtype).set_(storage, offset, tuple(size), tuple(stride)).clone()
