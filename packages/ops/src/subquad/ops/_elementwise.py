"""Elementwise results on a CPU whose bits do not depend on where in a tensor an element lies.

torch computes an elementwise operation in vectors, and one by one what is left over at the end of a row or of a
thread's share. For products of complex numbers and for activations the two ways differ in the last bit: one fuses
multiplications and additions, or has another exponential. Here every element is computed in a vector: the operation
runs over so many columns that every share ends between two vectors, and over the last columns in a second, small call
that overlaps the first. So a channel has the same bits in any company. Where torch traces, records under ``torch.func``
or runs on another device, the operation runs as it is.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from subquad.ops import dispatch
from subquad.ops.axes import Activation

_VECTOR = 32  # elements: a multiple of what a loop of two vectors takes on any processor
_SHARE = 1 << 15  # elements for which torch wakes another thread
_SMALLEST_SHARE = 1 << 14  # and where all threads take equal shares, as of gelu, elements for which it wakes them


def product(x: Tensor, factor: Tensor) -> Tensor:
    """Returns ``x * factor`` of complex tensors, in the memory of x where autograd does not record it.

    Args:
      x: ``[batch, channel, …, frequency]``, made by the caller.
      factor: ``[batch, channel, …, frequency]``, every axis but the last as long as that of x or 1.
    """
    if not _on_the_host(x, factor):
        return x * factor
    if dispatch.gradient_wanted(x, factor):
        return _Product.apply(x, factor)  # type: ignore[return-value]
    _multiply(x, factor, x)
    return x


def activated(y: Tensor, activation: Activation) -> Tensor:
    """Returns silu or gelu (exact) of a tensor, in its memory where that is possible and autograd does not record it."""
    if not _on_the_host(y):
        return torch.nn.functional.silu(y) if activation == "silu" else torch.nn.functional.gelu(y)
    if dispatch.gradient_wanted(y):
        return _Activated.apply(y, activation)  # type: ignore[return-value]
    return _activate(y, activation)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, factor: Tensor) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        _multiply(x, factor, out)
        return out

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, factor), (gradient,) = ctx.saved_tensors, gradients
        to_x = gradient * factor.conj() if ctx.needs_input_grad[0] else None
        to_factor = (gradient * x.conj()).sum_to_size(factor.shape) if ctx.needs_input_grad[1] else None
        return to_x, to_factor


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, activation: Activation) -> Tensor:
        return _activate(y.clone(memory_format=torch.contiguous_format), activation)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Activation], output: Tensor) -> None:
        y, ctx.activation = inputs
        ctx.save_for_backward(y)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        slope = torch.ops.aten.silu_backward if ctx.activation == "silu" else torch.ops.aten.gelu_backward
        return slope(gradients[0], ctx.saved_tensors[0]), None


def _on_the_host(x: Tensor, *others: Tensor) -> bool:
    if x.device.type != "cpu" or type(x) is not Tensor or x.numel() == 0:
        return False
    return not torch.compiler.is_compiling() and not dispatch.transformed()


def _multiply(x: Tensor, factor: Tensor, out: Tensor) -> None:
    if factor.shape == x.shape:
        tensors = [t.reshape(1, -1) for t in (x, factor)]
    elif factor.shape[0] == 1 and factor.shape[1:] == x.shape[1:]:
        tensors = [t.reshape(t.shape[0], -1) for t in (x, factor)]
    else:
        tensors = [x, factor]
    _in_vectors(torch.mul, out.view(tensors[0].shape), *tensors)


def _activate(y: Tensor, activation: Activation) -> Tensor:
    y = y.contiguous()
    flat = y.view(1, -1)
    _in_vectors(torch.ops.aten.silu if activation == "silu" else torch.ops.aten.gelu, flat, flat)
    return y


def _in_vectors(operation: Callable[..., Tensor], out: Tensor, *inputs: Tensor) -> None:
    """Writes ``operation(*inputs)`` into ``out`` ``[…, column]``, which may be the first input."""
    columns = out.shape[-1]
    if columns < _VECTOR:
        wide = [pad(x, (0, _VECTOR - columns)) for x in inputs]
        result = wide[0].new_empty((*out.shape[:-1], _VECTOR))
        _in_vectors(operation, result, *wide)
        out.copy_(result[..., :columns])
        return
    cuts = _cuts(out.numel() // columns, columns, torch.get_num_threads())
    if cuts is None:
        _in_halves(operation, out, *inputs)
        return
    head, tail = cuts
    if tail == 0:
        operation(*inputs, out=out)
        return
    last = operation(*(x[..., columns - tail :] for x in inputs))
    operation(*(x[..., :head] for x in inputs), out=out[..., :head])
    out[..., columns - tail :] = last


def _in_halves(operation: Callable[..., Tensor], out: Tensor, *inputs: Tensor) -> None:
    dim = next(axis for axis, size in enumerate(out.shape) if size > 1)
    half = out.shape[dim] // 2
    for start, size in ((0, half), (half, out.shape[dim] - half)):
        parts = (x.narrow(dim, start, size) if x.shape[dim] > 1 else x for x in inputs)
        _in_vectors(operation, out.narrow(dim, start, size), *parts)


@functools.lru_cache(maxsize=256)
def _cuts(rows: int, columns: int, threads: int) -> tuple[int, int] | None:
    """Returns how many columns to compute first and how many, at the end, after that; None where rows are too many."""
    widths = range(columns // _VECTOR * _VECTOR, 0, -_VECTOR)
    head = next((width for width in widths if _cut_between_vectors(rows * width, threads)), 0)
    if head in (0, columns):
        return (head, 0) if head else None
    widths = range(-(-(columns - head) // _VECTOR) * _VECTOR, columns + 1, _VECTOR)
    tail = next((width for width in widths if _cut_between_vectors(rows * width, threads)), 0)
    return (head, tail) if tail else None


def _cut_between_vectors(elements: int, threads: int) -> bool:
    """Says whether the shares of all threads, as many as torch may wake, end where a vector does."""
    if elements <= _SMALLEST_SHARE:
        return True
    shares = min(threads, -(-elements // _SHARE))
    return elements % (_VECTOR * shares) == 0 and elements % (_VECTOR * threads) == 0
