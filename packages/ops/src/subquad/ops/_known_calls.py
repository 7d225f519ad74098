"""What was decided about a call, for calls that look the same.

To check a call's arguments, describe it and ask the backends takes a processor longer than to launch a kernel, and
depends on nothing but the types, shapes and devices of its tensors and on its options. So a call for which the CUDA
library, or torch's product of 8-bit numbers, was chosen is decided once. Calls that something traces, records or
transforms are decided anew each time, and so are those of other backends, which may look at more and may be gone.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from subquad.ops.dispatch import Implementation, transformed_eagerly

_MOST = 1 << 14  # calls; a network has some ten for each length that it reads


def implementation_for(
    decide: Callable[..., Implementation | None], tensors: tuple[Tensor | None, ...], *options: object
) -> Implementation | None:
    """Returns ``decide(*tensors, *options)``, from memory where a call that looks the same was decided.

    Args:
      decide: checks a call and chooses its implementation; looks at no number of a tensor and at no stride.
      tensors: the call's tensors, x first; all that are None or a tensor of any dtype, shape and device.
      options: what else it looks at. Values that are equal must mean the same to it.

    Returns:
      None for the operator's own torch form. What comes from memory runs without asking whether the call is plain.

    Raises:
      What ``decide`` raises.
    """
    x = tensors[0]
    if (
        type(x) is not Tensor
        or torch.is_grad_enabled()
        or not x.is_cuda
        or torch.compiler.is_compiling()
        or transformed_eagerly()
    ):
        return decide(*tensors, *options)
    look: list[object] = [decide, *options]
    see = look.append  # one by one: a tuple for each tensor takes longer
    try:
        for tensor in tensors:
            if tensor is None:
                see(None)
                continue
            see(tensor.dtype)
            see(tensor.shape)
            see(tensor.device)
        known = _known().get(key := tuple(look))
    except (AttributeError, TypeError):  # no tensor, or an option that cannot be a key, of which it tells
        return decide(*tensors, *options)
    return _decided(decide, tensors, options, key) if known is None else known


def _decided(
    decide: Callable[..., Implementation | None],
    tensors: tuple[Tensor | None, ...],
    options: tuple[object, ...],
    key: tuple[Any, ...],
) -> Implementation | None:
    """Decides a call, and keeps what is to be kept."""
    offered = decide(*tensors, *options)
    if offered is not None and offered.plainly is not None:
        known = _known()
        if len(known) >= _MOST:
            known.clear()
        offered = known[key] = replace(offered, run=offered.plainly)
    return offered


@functools.cache
def _known() -> dict[tuple[Any, ...], Implementation]:
    return {}
