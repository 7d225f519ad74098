"""Operators on streams of which a graph learns the length only when it runs.

How an operator computes depends on the length: which form or backend, which transform, how many blocks. Traced by
``torch.compile`` or ``torch.export`` with a length that is not known, each such choice would bind the graph to the
lengths that it suits. So the graph gets one operator of torch there, ``subquad::of_any_length``, which makes the
ordinary call when it runs. Its backward makes the call again, under autograd.
"""

import ast
import importlib
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
_BELOW_AUTOGRAD = (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView)


def of_any_length(operator: Callable[P, R]) -> Callable[P, R]:
    """Lets a public operator be traced on a first argument whose sizes, but for the batch, are not known.

    Results are new, contiguous tensors then.
    """
    parameters = tuple(inspect.signature(operator).parameters)
    name = operator.__name__

    @wraps(operator)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() and args and _is_unknown(args[0]):
            given = {**dict(zip(parameters, args, strict=False)), **kwargs}
            if len(args) <= len(parameters) and set(given) <= set(parameters):  # else the call itself tells
                return _traced(name, given)  # type: ignore[return-value]
        return operator(*args, **kwargs)

    return call


def _is_unknown(x: object) -> bool:
    from torch.fx.experimental.symbolic_shapes import has_static_value  # it takes long to import, and is there by now

    return isinstance(x, Tensor) and not all(has_static_value(size) for size in x.shape[1:])


def _traced(name: str, given: dict[str, Any]) -> Any:
    names, tensors, options = [], [], []
    for parameter, value in given.items():
        parts = [*value] if isinstance(value, tuple | list) else [value]  # no named tuple: some tracers cannot add it
        if parts and all(isinstance(part, Tensor) for part in parts):
            names += [parameter] * len(parts)
            tensors += parts
        else:
            options.append(f"{parameter!r}: {value!r}")
    results = torch.ops.subquad.of_any_length(name, " ".join(names), tensors, "{" + ", ".join(options) + "}")
    if not name.endswith("_with_state"):
        return results[0]
    if len(results) == 2:
        return results[0], results[1]
    from subquad import ops

    kind = ops.GatedConvState if name == "gated_conv_with_state" else ops.GatedModalState
    return results[0], kind(results[1], results[2])


def _call(name: str, names: str, tensors: list[Tensor], options: str) -> list[Tensor]:
    """Makes the ordinary call, and puts its results in a row."""
    given = _arguments(names, tensors, options)
    result = getattr(importlib.import_module("subquad.ops"), name)(**given)
    if isinstance(result, Tensor):
        return [result]
    y, state = result
    return [y, state] if isinstance(state, Tensor) else [y, *state]


def _arguments(names: str, tensors: list[Tensor], options: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    owners = names.split()
    for parameter in dict.fromkeys(owners):
        parts = tuple(value for owner, value in zip(owners, tensors, strict=True) if owner == parameter)
        given[parameter] = parts[0] if len(parts) == 1 else parts
    return {**given, **ast.literal_eval(options)}


@torch.library.custom_op(
    "subquad::of_any_length",
    mutates_args=(),
    schema="(str operator, str names, Tensor[] tensors, str options) -> Tensor[]",
)
def _of_any_length(operator: str, names: str, tensors: list[Tensor], options: str) -> list[Tensor]:
    with torch.no_grad():
        return [_owned(y, tensors) for y in _call(operator, names, tensors, options)]


def _owned(y: Tensor, tensors: list[Tensor]) -> Tensor:
    """Returns a result in memory of its own, as an operator of torch must."""
    shared = any(y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for x in tensors)
    return y.clone(memory_format=torch.contiguous_format) if shared else y.contiguous()


@_of_any_length.register_fake
def _(operator: str, names: str, tensors: list[Tensor], options: str) -> list[Tensor]:
    given = _arguments(names, tensors, options)
    x, wide = tensors[0], torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    channel = x.dim() - 1 if given.get("layout", "BHL") == "BLH" else 1
    shape, rows = list(x.shape), x.shape[channel]
    if operator.startswith("gated"):
        shape[channel] = channels = rows // 3
    else:
        channels = rows
    results = [x.new_empty(shape)]
    if not operator.endswith("_with_state"):
        return results
    if "projection_taps" in given:
        results.append(x.new_empty((x.shape[0], rows, given["projection_taps"].shape[1] - 1)))
    taps, modes = given.get("mixer_taps", given.get("taps")), given.get("log_poles", given.get("decay"))
    if taps is not None:
        packed = given.get("cu_seqlens")
        sequences = x.shape[0] if packed is None else packed.shape[0] - 1
        results.append(x.new_empty((sequences, channels, taps.shape[1] - 1)))
    elif modes is not None:
        results.append(x.new_empty((x.shape[0], channels, modes.shape[1]), dtype=wide))
    return results


@torch.library.custom_op(
    "subquad::of_any_length_backward",
    mutates_args=(),
    schema="(str operator, str names, Tensor[] tensors, str options, Tensor[] upstream, int[] results, "
    "int[] wanted) -> Tensor[]",
)
def _backward(
    operator: str,
    names: str,
    tensors: list[Tensor],
    options: str,
    upstream: list[Tensor],
    results: list[int],
    wanted: list[int],
) -> list[Tensor]:
    """Makes the call again and returns the gradients of the wanted tensors."""
    leaves = [x.detach().requires_grad_(index in wanted) for index, x in enumerate(tensors)]
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in _BELOW_AUTOGRAD:  # an operator of torch runs below autograd
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        made = _call(operator, names, leaves, options)
        used = [made[index] for index in results]
        found = torch.autograd.grad(used, [leaves[index] for index in wanted], upstream, materialize_grads=True)
    return [_owned(gradient, [*tensors, *upstream]) for gradient in found]


@_backward.register_fake
def _(
    operator: str,
    names: str,
    tensors: list[Tensor],
    options: str,
    upstream: list[Tensor],
    results: list[int],
    wanted: list[int],
) -> list[Tensor]:
    return [tensors[index].new_empty(tensors[index].shape) for index in wanted]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.operator, ctx.names, tensors, ctx.options = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, upstream: list[Tensor | None]) -> tuple[Any, ...]:
    tensors = list(ctx.saved_tensors)
    wanted = [index for index, x in enumerate(tensors) if ctx.needs_input_grad[2][index]]
    given = [(index, one) for index, one in enumerate(upstream) if one is not None]
    results, used = [index for index, _ in given], [one for _, one in given]
    found = torch.ops.subquad.of_any_length_backward(
        ctx.operator, ctx.names, tensors, ctx.options, used, results, wanted
    )
    gradients: list[Tensor | None] = [None] * len(tensors)
    for index, gradient in zip(wanted, found, strict=True):
        gradients[index] = gradient
    return None, None, gradients, None


_of_any_length.register_autograd(_gradients, setup_context=_setup)
