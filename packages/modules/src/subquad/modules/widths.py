"""What modules ask of the widths of their inputs and of their parts, told before any work."""

import torch
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.mixer import MixerState

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def require_floats(name: str, x: Tensor) -> None:
    """Refuses what is no dense tensor of real floating point numbers.

    Raises:
      InputMismatch: Names the input, what it is and what is accepted.
    """
    if not isinstance(x, Tensor):
        got = f"a {type(x).__name__} and no tensor"
    elif x.is_nested or x.layout is not torch.strided:
        got = f"a {'nested' if x.is_nested else str(x.layout)[6:]} tensor"
    elif x.dtype not in _FLOATS:
        got = f"{x.dtype}"
    else:
        return
    raise InputMismatch(f"{name} is {got}; accepted are dense tensors of float32, float64, bfloat16 or float16")


def require_grid(name: str, x: Tensor, channels: int, *, axes: int | None = None) -> None:
    """Refuses an input ``[batch, *space, channel]`` of another width or rank; ``axes`` None takes any number of axes.

    Raises:
      InputMismatch: Names the input, what it has and what is accepted.
    """
    require_floats(name, x)
    space = x.dim() - 2
    if space < 0 or (axes is not None and space != axes):
        accepted = "any number" if axes is None else f"{axes}, between samples and channels"
        raise InputMismatch(
            f"{name} has {max(space, 0)} axes of space, its shape is {tuple(x.shape)}; accepted are {accepted}"
        )
    _require_width(name, x, channels)


def require_channels(name: str, x: Tensor, channels: int) -> None:
    """Refuses an input whose last axis has another width.

    Raises:
      InputMismatch: Names the input, what it has and what is accepted.
    """
    require_floats(name, x)
    _require_width(name, x, channels)


def _require_width(name: str, x: Tensor, channels: int) -> None:
    if x.dim() == 0 or x.shape[-1] != channels:
        width = x.shape[-1] if x.dim() else 0
        raise InputMismatch(
            f"{name} has {width} channels, its shape is {tuple(x.shape)}; accepted are {channels} channels"
        )


def require_streams(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    channels: int | tuple[int, int, int],
    *,
    axes: int,
    state: MixerState | None = None,
    keys_elsewhere: bool = False,
) -> None:
    """Refuses streams of a mixer that have other widths or ranks than it takes, or that do not go together.

    Args:
      q: Queries, ``[batch, *space, channel]``.
      k: Keys, likewise.
      v: Values, likewise.
      channels: Accepted channels, of each of the three or of all.
      axes: Accepted axes of space; 0 for a step.
      state: Where given, it must have as many rows.
      keys_elsewhere: Whether keys and values may lie on other points than queries.

    Raises:
      InputMismatch: Names the stream, what it has and what is accepted.
    """
    widths = (channels, channels, channels) if isinstance(channels, int) else channels
    for name, x, width in zip("qkv", (q, k, v), widths, strict=True):
        require_grid(name, x, width, axes=axes)
    if k.shape[:-1] != v.shape[:-1] or q.shape[0] != k.shape[0] or not (keys_elsewhere or q.shape[:-1] == k.shape[:-1]):
        rows = ", ".join(f"{name} {tuple(x.shape[:-1])}" for name, x in zip("qkv", (q, k, v), strict=True))
        raise InputMismatch(f"samples and points differ: {rows}; accepted are the same for all streams")
    if state is not None:
        require_rows(q, state)


def require_positions(positions: Tensor, axes: int) -> None:
    """Refuses positions that are no integers ``[rows, length, axis]``.

    Raises:
      InputMismatch: Names what they are and what is accepted.
    """
    accepted = f"dense tensors of int64 or int32, [rows, length, {axes}]"
    if not isinstance(positions, Tensor) or positions.is_nested or positions.layout is not torch.strided:
        raise InputMismatch(f"positions are a {type(positions).__name__}, no dense tensor; accepted are {accepted}")
    if positions.dtype not in (torch.int64, torch.int32) or positions.dim() != 3 or positions.shape[2] != axes:
        raise InputMismatch(
            f"positions are {positions.dtype} of shape {tuple(positions.shape)}; accepted are {accepted}"
        )


def require_projected(z: Tensor, rows: int) -> None:
    """Refuses projected streams ``[batch, rows, length]`` of another height or rank.

    Raises:
      InputMismatch: Names what they have and what is accepted.
    """
    require_floats("z", z)
    if z.dim() != 3 or z.shape[1] != rows:
        raise InputMismatch(
            f"z has {z.shape[1] if z.dim() > 1 else 0} rows, its shape is {tuple(z.shape)}; accepted are {rows} rows, "
            "[batch, rows, length]"
        )


def require_rows(x: Tensor, state: MixerState) -> None:
    """Refuses an input that has more or fewer rows than the state that it continues.

    Raises:
      InputMismatch: Names both numbers.
    """
    if x.shape[0] != state.position.shape[0]:
        raise InputMismatch(
            f"the input has {x.shape[0]} rows, the state {state.position.shape[0]}; accepted are as many as the state"
        )


def require_active(active: Tensor | None, rows: int) -> None:
    """Refuses what does not say of every row whether it takes part in a step; None means that all do.

    Raises:
      InputMismatch: Names what it is and what is accepted.
    """
    if active is None:
        return
    if not isinstance(active, Tensor) or active.is_nested or active.layout is not torch.strided:
        raise InputMismatch(f"active is a {type(active).__name__}, no dense tensor; accepted are None or bool [{rows}]")
    if active.dtype != torch.bool or tuple(active.shape) != (rows,):
        raise InputMismatch(
            f"active is {active.dtype} of shape {tuple(active.shape)}; accepted are None or bool [{rows}]"
        )


def require_part(name: str, part: object, channels: int) -> None:
    """Refuses a part that says how many channels it takes, when it says another number than those around it.

    Heard are an integer ``channels`` or ``hidden_dim``, and what ``nn.Linear`` and ``nn.LayerNorm`` were made for.

    Raises:
      ConfigurationError: Names the configuration, what it makes and what is accepted.
    """
    stated = _stated_channels(part)
    if stated is not None and stated != channels:
        raise ConfigurationError(
            f"{name} makes a {type(part).__name__} of {stated} channels; accepted are {channels}, those around it"
        )


def require_positive(**sizes: int) -> None:
    """Refuses sizes below 1.

    Raises:
      ConfigurationError: Names every argument and its value.
    """
    if min(sizes.values()) < 1:
        named = ", ".join(f"{name} is {value}" for name, value in sizes.items())
        raise ConfigurationError(f"{named}; accepted are integers of 1 and more")


def _stated_channels(part: object) -> int | None:
    if isinstance(part, nn.Linear):
        return part.in_features
    if isinstance(part, nn.LayerNorm):
        return part.normalized_shape[-1]
    stated = getattr(part, "channels", getattr(part, "hidden_dim", None))
    return stated if isinstance(stated, int) else None
