"""Elementwise results on a CPU whose bits do not depend on how many rows are computed together.

torch computes an elementwise operation in vectors, and one by one what is left over at the end of a row or of a
thread's share; rows that follow each other in memory are one long row to it. For products of complex numbers and for
activations the two ways differ in the last bit: one fuses multiplications and additions, or has another exponential.
Here few or short rows are told apart by gaps in the memory of the result. Others are cut, first as many columns as
fill vectors, then the rest, and the first are cut again so that no thread's share ends inside a vector. Either way an
element's way depends on its column alone. Where torch traces, transforms or runs on another device, the operation runs
as it is.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops import dispatch
from subquad.ops.axes import Activation

_VECTOR = 32  # elements: a multiple of what a loop over two vectors takes on any processor
_FEW = 4  # elements of a row that are not made a vector for an activation
_SHARE = 1 << 15  # elements for which torch wakes another thread
_SMALLEST_SHARE = 1 << 14  # elements for which gelu wakes all of them; they take equal shares


def product(x: Tensor, factor: Tensor) -> Tensor:
    """Returns ``x * factor`` of complex tensors, in the memory of x where autograd does not record it.

    Args:
      x: ``[batch, channel, …, frequency]``, made by the caller.
      factor: the same, its batch 1 or that of x.
    """
    if not _on_the_host(x, factor):
        return x * factor
    if dispatch.gradient_wanted(x, factor):
        return _Product.apply(x, factor)  # type: ignore[return-value]
    x = x.contiguous()
    _multiply(x, factor, x)
    return x


def product_of_windows(x: Tensor, factor: Tensor) -> Tensor:
    """Does product for x ``[batch, channel, window, frequency]`` and a factor with one window in place of several."""
    if not _on_the_host(x, factor):
        return x * factor
    rows, threads = x.numel() // x.shape[-1], torch.get_num_threads()
    if x.is_contiguous() and x.shape[-2] > 1 and _cut_between_rows(rows, x.shape[-1], threads):
        return x * factor if dispatch.gradient_wanted(x, factor) else x.mul_(factor)
    return product(x, factor)


def activated(y: Tensor, activation: Activation) -> Tensor:
    """Returns silu or gelu (exact) of a tensor, in its memory where that is dense and autograd does not record it."""
    if not _on_the_host(y):
        return torch.nn.functional.silu(y) if activation == "silu" else torch.nn.functional.gelu(y)
    if dispatch.gradient_wanted(y):
        return _Activated.apply(y, activation)  # type: ignore[return-value]
    return _activate(y, activation, y if y.is_contiguous() else y.new_empty(y.shape))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, factor: Tensor) -> Tensor:
        out = x.new_empty(x.shape)
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
        return _activate(y, activation, y.new_empty(y.shape))

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Activation], output: Tensor) -> None:
        y, ctx.activation = inputs
        ctx.save_for_backward(y)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (y,), (gradient,) = ctx.saved_tensors, gradients
        if ctx.activation == "gelu":
            return torch.ops.aten.gelu_backward(gradient, y), None
        if not torch.is_grad_enabled():  # the operator has no derivative
            return torch.ops.aten.silu_backward(gradient, y), None
        gate = torch.sigmoid(y)
        return gradient * gate * (1 + y * (1 - gate)), None


def _on_the_host(x: Tensor, *others: Tensor) -> bool:
    if x.device.type != "cpu" or type(x) is not Tensor or x.numel() == 0:
        return False
    return not torch.compiler.is_compiling() and not dispatch.transformed()


def _multiply(x: Tensor, factor: Tensor, out: Tensor) -> None:
    if x.dim() > 3 and x.shape[2:] == factor.shape[2:]:  # one row
        same = x is out
        x, factor, out = (t.flatten(2) for t in (x, factor, out))
        x = out if same else x
    _by_columns(torch.mul, out, x, factor)


def _activate(y: Tensor, activation: Activation, out: Tensor) -> Tensor:
    operation, columns = torch.ops.aten.silu.out if activation == "silu" else torch.ops.aten.gelu.out, y.shape[-1]
    if _FEW < columns < _VECTOR or columns == 1:  # one by one they would take longer than a whole vector
        wide = y.new_zeros((*y.shape[:-1], _VECTOR))
        part = wide.narrow(-1, 0, columns)
        part.copy_(y)
        _by_columns(operation, wide, wide)
        return out.copy_(part)
    _by_columns(operation, out, y)
    return out


def _by_columns(operation: Callable[..., Tensor], out: Tensor, *inputs: Tensor) -> None:
    """Writes ``operation(*inputs)`` into ``out`` ``[…, column]``, which may be the first input."""
    columns, elements = out.shape[-1], out.numel()
    if elements <= _SMALLEST_SHARE and columns % _VECTOR:
        _with_gaps(operation, out, *inputs)
        return
    rows, threads = elements // columns, torch.get_num_threads()
    if columns < _VECTOR and _cut_between_rows(rows, columns, threads):
        _with_gaps(operation, out, *inputs)
        return
    widths = None if columns < _VECTOR else _widths(rows, columns, threads)
    if widths is None:
        _in_halves(operation, out, *inputs)
    elif len(widths) == 1:
        operation(*inputs, out=out)
    else:
        results = out.split_with_sizes(widths, -1)
        parts = [results if x is out else x.split_with_sizes(widths, -1) for x in inputs]
        for result, *values in zip(results, *parts, strict=True):
            operation(*values, out=result)


def _with_gaps(operation: Callable[..., Tensor], out: Tensor, *inputs: Tensor) -> None:
    """Writes ``operation(*inputs)`` into ``out`` in rows that do not follow each other in all of these memories."""
    columns = out.shape[-1]
    if columns == 1:  # an element alone is computed in yet another way
        result = out.new_empty((*out.shape[:-1], 3)).narrow(-1, 0, 2)
        operation(*(x.expand(*x.shape[:-1], 2) for x in inputs), out=result)
        out.copy_(result.narrow(-1, 0, 1))
        return
    if inputs[0] is not out and inputs[0].stride(-2) != columns and inputs[0].shape[-2] > 1:
        operation(*inputs, out=out)
        return
    result = out.new_empty((*out.shape[:-1], columns + 1)).narrow(-1, 0, columns)
    operation(*inputs, out=result)
    out.copy_(result)


def _in_halves(operation: Callable[..., Tensor], out: Tensor, *inputs: Tensor) -> None:
    dim = next(axis for axis, size in enumerate(out.shape) if size > 1)
    half = out.shape[dim] // 2
    for start, size in ((0, half), (half, out.shape[dim] - half)):
        parts = (x.narrow(dim, start, size) if x.shape[dim] > 1 else x for x in inputs)
        _by_columns(operation, out.narrow(dim, start, size), *parts)


@functools.lru_cache(maxsize=256)
def _widths(rows: int, columns: int, threads: int) -> tuple[int, ...] | None:
    """Cuts rows into columns that are computed together; None where there are too many rows for that."""
    widths, left = [], columns // _VECTOR * _VECTOR
    while left:
        fitting = (w for w in range(left, 0, -_VECTOR) if _cut_between_vectors(rows * w, threads))
        width = next(fitting, 0)
        if width == 0:
            return None
        widths.append(width)
        left -= width
    rest = columns % _VECTOR
    if rest and not _cut_between_rows(rows, rest, threads):
        return None
    return (*widths, rest) if rest else tuple(widths)


def _cut_between_vectors(elements: int, threads: int) -> bool:
    """Says whether the shares of all threads, as many as torch may wake, end where a vector does."""
    return all(elements % (_VECTOR * shares) == 0 for shares in _shares(elements, threads))


def _cut_between_rows(rows: int, columns: int, threads: int) -> bool:
    """Says whether the shares of all threads, as many as torch may wake, end where a row does."""
    return all(rows % shares == 0 for shares in _shares(rows * columns, threads))


def _shares(elements: int, threads: int) -> tuple[int, ...]:
    if elements <= _SMALLEST_SHARE:
        return (1,)
    return min(threads, -(-elements // _SHARE)), threads
