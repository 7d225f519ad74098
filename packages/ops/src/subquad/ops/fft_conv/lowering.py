"""A backend of torch.compile that finds FFT convolutions written out in torch.fft and calls fft_conv instead.

The recipe: ``irfft(rfft(x) * rfft(w))[..., centre : centre + length]`` over the last one to three axes, zeros padded by
the transforms. Where the crop starts at the tap ``tap // 2`` that is fft_conv, where it starts at 0, over one axis, its
causal form. Everything else is left as it is and counted under the reason.
"""

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from subquad.ops.fft_conv.fft_conv import fft_conv

Compiler = Callable[[GraphModule, list[Tensor]], Callable[..., Any]]

_FORWARD = (torch.fft.rfft, torch.fft.rfft2, torch.fft.rfftn)
_INVERSE = (torch.fft.irfft, torch.fft.irfft2, torch.fft.irfftn)
_PRODUCTS = (operator.mul, torch.mul, "mul")
_IN_PLACE = (operator.imul, "mul_")
_DTYPES = (torch.float32, torch.float64)


@dataclass
class LoweringStatistics:
    """What a lowering has met.

    Attributes:
      convolutions: FFT convolutions that became calls of fft_conv.
      skipped: inverse transforms that were left as they are, by reason.
    """

    convolutions: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


class _Skipped(Exception):
    """Why an inverse transform stays."""


class _Transform(NamedTuple):
    source: Node
    lengths: tuple[int, ...]


class FftConvLowering:
    """A backend of torch.compile: ``torch.compile(model, backend=FftConvLowering())``.

    Example:
      >>> lowering = FftConvLowering("eager")
      >>> def recipe(x, w):
      ...     return torch.fft.irfft(torch.fft.rfft(x, n=12) * torch.fft.rfft(w, n=12), n=12)[..., 2:10]
      >>> y = torch.compile(recipe, backend=lowering)(torch.ones(1, 3, 8), torch.ones(3, 5))
      >>> lowering.statistics.convolutions
      1
    """

    def __init__(self, compiler: str | Compiler = "inductor", *, backend: str = "auto") -> None:
        """Compiles what is left.

        Args:
          compiler: a backend of torch.compile, or its name.
          backend: of the calls of fft_conv.
        """
        self.statistics = LoweringStatistics()
        self._compiler, self._backend = compiler, backend

    def __call__(self, module: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Rewrites one graph and compiles it."""
        self.lower(module)
        compiler = torch._dynamo.lookup_backend(self._compiler) if isinstance(self._compiler, str) else self._compiler
        return compiler(module, inputs)

    def lower(self, module: GraphModule) -> None:
        """Rewrites a graph whose nodes know their values, as torch.compile makes them, and counts."""
        for node in list(module.graph.nodes):
            if node.target in _INVERSE:
                try:
                    self._replace(module, node)
                    self.statistics.convolutions += 1
                except _Skipped as reason:
                    self.statistics.skipped[str(reason)] += 1
        module.recompile()

    def _replace(self, module: GraphModule, inverse: Node) -> None:
        product = _input(inverse)
        factors = [_transform(_unwrapped(factor)) for factor in _factors(product)]
        crop, starts = _crop(inverse, len(factors[0].lengths))
        x, taps = _roles(factors, _value(crop))
        if _transform(inverse, of_result=True).lengths != x.lengths or taps.lengths != x.lengths:
            raise _Skipped("the transforms have different lengths")
        causal = _alignment(x, taps, starts)
        with module.graph.inserting_before(crop):
            options: dict[str, Any] = {"causal": causal, "backend": self._backend}
            call = module.graph.call_function(fft_conv, (x.source, taps.source), options)
        call.meta = dict(crop.meta)
        crop.replace_all_uses_with(call)
        _erase(module, [crop, inverse, product, *_factors(product)])


def _value(node: Node) -> Tensor:
    value = node.meta.get("example_value")
    if not isinstance(value, Tensor) or not all(isinstance(size, int) for size in value.shape):
        raise _Skipped("a size is not known when compiling")
    return value


def _input(node: Node) -> Node:
    source = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(source, Node):
        raise _Skipped("an argument is no tensor")
    return source


def _factors(product: Node) -> list[Node]:
    """Returns the two spectra that are multiplied."""
    if product.target in _IN_PLACE or any(user.target in _IN_PLACE for user in product.users):
        raise _Skipped("the product is taken in place")
    factors = [factor for factor in product.args if isinstance(factor, Node)]
    if product.target not in _PRODUCTS or len(factors) != 2:
        raise _Skipped("what is transformed back is not a product of two tensors")
    return factors


def _unwrapped(factor: Node) -> Node:
    """Returns a spectrum before an axis for the batch was put in front of it."""
    if factor.target in ("unsqueeze", torch.unsqueeze) and factor.args[1:] == (0,):
        return _input(factor)
    return factor


def _transform(node: Node, *, of_result: bool = False) -> _Transform:
    """Reads a transform over the last axes."""
    if not of_result and node.target not in _FORWARD:
        raise _Skipped("a factor is not a transform of real values")
    source = _input(node)
    given: dict[str, Any] = dict(zip(("input", "length", "dim", "norm"), node.args, strict=False)) | dict(node.kwargs)
    if given.get("norm") not in (None, "backward"):
        raise _Skipped("a transform is scaled")
    real = _value(node if of_result else source)
    if real.dtype not in _DTYPES:
        raise _Skipped(f"values of {str(real.dtype)[6:]}")
    single = node.target in (torch.fft.rfft, torch.fft.irfft)
    default = {torch.fft.rfft2: (-2, -1), torch.fft.irfft2: (-2, -1)}.get(node.target, -1 if single else None)
    dims = given.get("dim", default)
    lengths = given.get("n" if single else "s", given.get("length"))
    dims = (dims,) if isinstance(dims, int) else dims
    if dims is None:
        dims = range(-len(lengths), 0) if lengths is not None else range(-real.dim(), 0)
    places = [dim % real.dim() - real.dim() for dim in dims]
    if places != list(range(-len(places), 0)) or len(places) > 3:
        raise _Skipped("the axes of a transform are not the last one to three in order")
    if of_result or lengths is None:
        return _Transform(source, tuple(real.shape[dim] for dim in places))
    lengths = (lengths,) if isinstance(lengths, int) else tuple(lengths)
    if not all(isinstance(length, int) for length in lengths):
        raise _Skipped("a size is not known when compiling")
    return _Transform(source, tuple(lengths))


def _crop(inverse: Node, rank: int) -> tuple[Node, list[int]]:
    """Returns the one node that crops the result, and where it starts along each axis."""
    users = list(inverse.users)
    if len(users) != 1 or users[0].target is not operator.getitem:
        raise _Skipped("the result is not cropped by slices, or is used more than once")
    given: Any = users[0].args[1]
    index: tuple[Any, ...] = given if isinstance(given, tuple) else (given,)
    axes = _value(inverse).dim()
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (axes - len(index) + 1), *index[at + 1 :])
    index = (*index, *[slice(None)] * (axes - len(index)))
    if not all(isinstance(part, slice) and part.step in (None, 1) for part in index):
        raise _Skipped("the crop is not made of slices")
    if any(part != slice(None) for part in index[:-rank]):
        raise _Skipped("the crop leaves out samples or channels")
    starts = [part.start or 0 for part in index[-rank:]]
    if not all(isinstance(start, int) and start >= 0 for start in starts):
        raise _Skipped("the crop starts at a place that is not known when compiling")
    return users[0], starts


def _roles(factors: list[_Transform], result: Tensor) -> tuple[_Transform, _Transform]:
    """Says which factor is the grid, of the result's shape, and which the filter."""
    rank = len(factors[0].lengths)
    for x, taps in (factors, factors[::-1]):
        grid, kernel = _value(x.source), _value(taps.source)
        channels = kernel.shape[-rank - 1] if kernel.dim() > rank else 0
        fits = kernel.dim() == rank + 1 or (kernel.dim() == rank + 2 and kernel.shape[0] in (1, grid.shape[0]))
        if grid.shape == result.shape and grid.dim() == rank + 2 and fits and channels == grid.shape[1]:
            return x, taps
    raise _Skipped(
        "no factor is a grid [batch, channel, *space] of the result's shape beside a filter for each channel"
    )


def _alignment(x: _Transform, taps: _Transform, starts: list[int]) -> bool:
    """Says whether the convolution is causal; both forms need what wraps round to fall outside the crop."""
    sizes, kernel = (_value(t.source).shape[-len(x.lengths) :] for t in (x, taps))
    centred = starts == [tap // 2 for tap in kernel]
    if not centred and starts != [0]:
        raise _Skipped("the crop starts neither at the centre of the filter nor, over one axis, at 0")
    for start, size, tap, length in zip(starts, sizes, kernel, x.lengths, strict=True):
        if length < max(size, tap, size + start, size + tap - 1 - start):
            raise _Skipped("the transform is so short that the ends of the result are mixed")
    return not centred


def _erase(module: GraphModule, nodes: list[Node]) -> None:
    """Removes what nothing uses any more, and the transforms behind an unsqueeze with it."""
    for node in nodes:
        inner = _unwrapped(node)
        for each in dict.fromkeys((node, inner)):
            if not each.users:
                module.graph.erase_node(each)
