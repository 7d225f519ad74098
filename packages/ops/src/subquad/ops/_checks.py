"""Argument checks shared by the operators: each raises a typed error naming the value got and the value accepted."""

from collections.abc import Sequence as Values
from typing import get_args

import torch
from torch import Tensor

from subquad.ops.axes import Activation, Layout
from subquad.ops.errors import ArgumentOutOfRange, DeviceMismatch, DtypeMismatch, ShapeMismatch

_LAYOUTS, _ACTIVATIONS = get_args(Layout), (None, *get_args(Activation))  # once: asking costs two microseconds
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def one_of(name: str, value: object, accepted: Values[object]) -> None:
    """Raises unless ``value`` is among ``accepted``."""
    if value not in accepted:
        raise ArgumentOutOfRange(f"{name} is {value!r}; accepted: {', '.join(repr(choice) for choice in accepted)}")


def floating(name: str, tensor: Tensor) -> None:
    """Raises unless ``tensor`` is a tensor of real floating point numbers."""
    if getattr(tensor, "dtype", None) not in FLOATS:
        got = tensor.dtype if isinstance(tensor, Tensor) else f"a {type(tensor).__name__} and no tensor"
        raise DtypeMismatch(f"{name} is {got}; accepted: float32, float64, bfloat16, float16")
    dense(name, tensor)


def integral(name: str, tensor: Tensor) -> None:
    """Raises unless ``tensor`` is a tensor of 32 or 64-bit integers."""
    if getattr(tensor, "dtype", None) not in (torch.int64, torch.int32):
        got = tensor.dtype if isinstance(tensor, Tensor) else f"a {type(tensor).__name__} and no tensor"
        raise DtypeMismatch(f"{name} is {got}; accepted: int64, int32")
    dense(name, tensor)


def dense(name: str, tensor: Tensor) -> None:
    """Raises unless every number of ``tensor`` has a place in memory, as those of sparse and nested ones have not."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        got = "nested" if tensor.is_nested else str(tensor.layout)[6:]
        raise DtypeMismatch(f"{name} is a {got} tensor; accepted: dense ones, as {name}.to_dense() or padding makes")


def same_device(name: str, tensor: Tensor, x_name: str, x: Tensor) -> None:
    """Raises unless both tensors lie on one device."""
    if getattr(tensor, "device", None) != x.device:
        if not isinstance(tensor, Tensor):
            raise DtypeMismatch(f"{name} is a {type(tensor).__name__} and no tensor; accepted: a tensor like {x_name}")
        raise DeviceMismatch(f"{name} is on {tensor.device}, {x_name} on {x.device}; move one of them")


def channel_first(x: Tensor, layout: Layout, name: str = "x") -> Tensor:
    """Checks a sequence and returns it as ``[batch, channel, length]`` (a view)."""
    one_of("layout", layout, _LAYOUTS)
    floating(name, x)
    if x.dim() != 3:
        raise ShapeMismatch(f"{name} has {x.dim()} axes {tuple(x.shape)}; a sequence has 3 ({layout})")
    return x if layout == "BHL" else x.transpose(1, 2)


def axes_of_space(function: str, x: Tensor, rank: int) -> None:
    """Raises unless x has a batch, a channel and ``rank`` other axes."""
    floating("x", x)
    if x.dim() != rank + 2:
        raise ShapeMismatch(f"x has {x.dim()} axes {tuple(x.shape)}; {function} takes {rank + 2} ({rank} of space)")


def as_layout(y: Tensor, layout: Layout) -> Tensor:
    """Turns ``[batch, channel, length]`` back into the caller's layout (a view)."""
    return y if layout == "BHL" else y.transpose(1, 2)


def taps(name: str, value: Tensor, x: Tensor, channels: int, channels_name: str = "x") -> None:
    """Checks filter taps ``[group, tap]`` against the channel count they serve."""
    floating(name, value)
    same_device(name, value, channels_name, x)
    if value.dim() != 2:
        raise ShapeMismatch(f"{name} has {value.dim()} axes {tuple(value.shape)}; accepted: 2 (group, tap)")
    groups, length = value.shape
    if length < 1:
        raise ShapeMismatch(f"{name} has 0 taps; accepted: 1 or more")
    if groups < 1 or channels % groups:
        raise ShapeMismatch(f"{name} has {groups} rows, {channels_name} has {channels} channels; rows must divide them")


def shaped(
    name: str,
    value: Tensor | None,
    shape: tuple[int, ...],
    x: Tensor,
    x_name: str = "x",
    *,
    optional: bool = True,
) -> None:
    """Checks a float tensor against its one accepted shape; None where it is optional."""
    if value is None and optional:
        return
    floating(name, value)  # type: ignore[arg-type]
    assert value is not None
    same_device(name, value, x_name, x)
    if tuple(value.shape) != shape:
        raise ShapeMismatch(f"{name} has shape {tuple(value.shape)}; {x_name} {tuple(x.shape)} needs {shape}")


def modes(
    log_poles: Tensor, residues: Tensor, x: Tensor | None = None, channels: int | None = None, x_name: str = "x"
) -> None:
    """Checks poles and residues ``[channel, state]`` against each other and against the channels of ``x``."""
    floating("log_poles", log_poles)
    if log_poles.dim() != 2:
        raise ShapeMismatch(f"log_poles has {log_poles.dim()} axes {tuple(log_poles.shape)}; accepted: channel, state")
    shaped("residues", residues, tuple(log_poles.shape), log_poles, "log_poles", optional=False)
    if x is not None and channels is not None:
        same_device("log_poles", log_poles, x_name, x)
        if log_poles.shape[0] != channels:
            raise ShapeMismatch(
                f"log_poles has {log_poles.shape[0]} channels, {x_name} has {channels}; they must agree"
            )


def pair(name: str, value: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Checks an optional state of two tensors and returns both."""
    if value is None:
        return None, None
    if not isinstance(value, tuple | list) or len(value) != 2:
        got = f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
        raise ShapeMismatch(f"{name} is {got}; accepted: the two tensors that an earlier call returned")
    return value[0], value[1]


def kept(name: str, value: Tensor, shape: tuple[int, ...], x: Tensor, x_name: str = "x") -> None:
    """Checks what a call changes in place: its shape, and that no two of its elements share memory."""
    shaped(name, value, shape, x, x_name, optional=False)
    if 0 in value.stride() and any(step == 0 and n > 1 for step, n in zip(value.stride(), shape, strict=True)):
        raise ShapeMismatch(
            f"{name} has shape {shape} and strides {value.stride()}: elements share memory and would change together; "
            f"accepted: memory of its own, as {name}.contiguous() has"
        )


def activation(value: Activation | None) -> None:
    """Checks the name of an activation."""
    one_of("activation", value, _ACTIVATIONS)


def expand_groups(value: Tensor, channels: int) -> Tensor:
    """Repeats the rows of ``[group, tap]`` so that channel c gets row ``c // (channels / group)``."""
    return value if value.shape[0] == channels else value.repeat_interleave(channels // value.shape[0], dim=0)


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype in which sums over x are kept: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def step(x: Tensor, name: str = "x") -> tuple[int, int]:
    """Checks one sample of each stream and returns batch and channels."""
    floating(name, x)
    if x.dim() != 2:
        raise ShapeMismatch(f"{name} has {x.dim()} axes {tuple(x.shape)}; a step has 2 (batch, channel)")
    return x.shape[0], x.shape[1]


def row_values(
    name: str,
    value: Tensor | None,
    batch: int,
    x: Tensor,
    dtypes: tuple[torch.dtype, ...],
    x_name: str = "x",
    *,
    optional: bool = True,
) -> None:
    """Checks a tensor that holds one plain value a row; None where it is optional."""
    if value is None and optional:
        return
    same_device(name, value, x_name, x)  # type: ignore[arg-type]
    assert value is not None
    if value.dtype not in dtypes:
        raise DtypeMismatch(f"{name} is {value.dtype}; accepted: {', '.join(str(d)[6:] for d in dtypes)}")
    dense(name, value)
    if tuple(value.shape) != (batch,):
        raise ShapeMismatch(f"{name} has shape {tuple(value.shape)}; {x_name} {tuple(x.shape)} needs {(batch,)}")


def own_copy(state: Tensor) -> Tensor:
    """Copies a view, so that a kept state does not keep the stream it was cut from."""
    return state.clone() if torch.compiler.is_compiling() or state._is_view() else state
