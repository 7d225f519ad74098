"""One row of the table: a case on a backend, its error first and then its times."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from cases import FLOPS_PER_SECOND, Case
from rivals import Rival
from timing import captured, graph_microseconds, host_microseconds, median_microseconds
from torch import Tensor

_LARGEST_ERROR = {torch.float32: 2e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}
_RIVALS_ERROR = 4.0  # times as much is allowed of a competitor, whose chains round between stages
_CHECKED_ELEMENTS = 1 << 28  # of an input up to which the error is taken on the whole call where it has no part
_GRAPH_BELOW = 1500.0  # microseconds: a longer call does not feel its launch


@dataclass
class Row:
    """One line of the table."""

    op: str
    case: str
    shape: str
    dtype: str
    backend: str
    microseconds: float | None = None  # alone, with a cold cache
    graph_microseconds: float | None = None  # one of 20 in a graph
    host_microseconds: float | None = None  # Python's part, hidden behind the GPU's in the others
    floor: float | None = None
    times_floor: float | None = None
    error: float | None = None
    backward_microseconds: float | None = None  # forward and backward less forward, in a graph where there is one
    backward_floor: float | None = None
    backward_times_floor: float | None = None
    backward_error: float | None = None  # the largest of all gradients
    problem: str | None = None


def _relative(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


def _gradients(case: Case, inputs: tuple[Tensor, ...], backend: str) -> tuple[Tensor, ...]:
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in inputs]
    y = case.run(*leaves, backend=backend)
    upstream = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y).to(inputs[0].dtype)
    return torch.autograd.grad(y, [t for t in leaves if t.requires_grad], upstream.to(y.dtype))


def errors_of(case: Case, backend: str, backward: bool, own: Case | None = None) -> tuple[float | None, float | None]:
    """Relative errors of the output and of the worst gradient against float64 torch, None where it would not fit.

    ``own`` is the case as it is done where that is not the backend's doing.
    """
    own = case if own is None else own
    inputs = case.inputs if case.part is None else case.part(*case.inputs)
    if max(t.numel() for t in inputs) > _CHECKED_ELEMENTS:
        return None, None
    wide = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    got = own.run(*[t.clone() if case.in_place else t for t in inputs], backend=backend)
    error = _relative(got, case.run(*wide, backend="torch"))
    if not backward or not case.differentiable:
        return error, None
    pairs = zip(_gradients(own, inputs, backend), _gradients(case, wide, "torch"), strict=True)
    return error, max(_relative(a, b) for a, b in pairs)


def measure(row: Row, case: Case, bandwidth: float, backward: bool, rival: Rival | None = None) -> Row:
    """Checks, then times one case on the row's backend, or as a competitor does it."""
    device, dtype = case.inputs[0].device.type, case.inputs[0].dtype
    row.floor = (case.bytes / bandwidth + case.flops / FLOPS_PER_SECOND) * 1e6
    backward = backward and case.differentiable
    if backward and case.backward_bytes is not None:
        row.backward_floor = case.backward_bytes / bandwidth * 1e6
    try:
        own = case if rival is None else rival.whole(case)
        row.error, row.backward_error = errors_of(case, row.backend, backward, own)
        allowed = _LARGEST_ERROR[dtype] * (1.0 if rival is None else _RIVALS_ERROR)
        if row.error is not None and not row.error <= allowed:
            row.problem = f"error {row.error:.1e} is too large; not timed"
            return row
        timed = case if rival is None else rival.prepared(case)
        with torch.no_grad():
            row.microseconds, row.graph_microseconds, row.host_microseconds = times(
                lambda: timed.run(*timed.inputs, backend=row.backend), device
            )
        row.times_floor = (row.graph_microseconds or row.microseconds) / row.floor
        if backward:
            row.backward_microseconds = _backward(timed, row, device)
            if row.backward_floor is not None:
                row.backward_times_floor = row.backward_microseconds / row.backward_floor
    except Exception as error:  # a competitor may raise anything; the other rows must still be measured
        row.problem = f"{type(error).__name__}: {error}".splitlines()[0]
        torch.cuda.empty_cache()
    return row


def times(call: Callable[[], object], device: str) -> tuple[float, float | None, float | None]:
    """Returns the time of a call by itself, in a graph if it is short and can be captured, and Python's part."""
    alone = median_microseconds(call, device)
    if device != "cuda":
        return alone, None, None
    host = host_microseconds(call)
    if alone >= _GRAPH_BELOW:
        return alone, None, host
    one = captured(call, 1)  # which has nothing of Python's in it, however late that is
    return alone if one is None else median_microseconds(one, device), graph_microseconds(call), host


def _backward(case: Case, row: Row, device: str) -> float:
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in case.inputs]
    wanted = [t for t in leaves if t.requires_grad]
    upstream = torch.ones_like(case.run(*leaves, backend=row.backend))

    def both() -> object:
        return torch.autograd.grad(case.run(*leaves, backend=row.backend), wanted, upstream)

    def forward() -> object:
        return case.run(*leaves, backend=row.backend)

    (alone, inside, _), (ahead, ahead_inside, _) = (times(call, device) for call in (both, forward))
    return alone - ahead if inside is None or ahead_inside is None else inside - ahead_inside
