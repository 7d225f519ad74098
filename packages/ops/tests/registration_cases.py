"""Checks how the Triton kernels are registered with torch, by torch.library.opcheck; prints a line an operator.

usage: registration_cases.py, with TRITON_INTERPRET=1

Each call goes through the dispatcher, where a mode notes the custom operators that it reaches and their arguments. A
program, so that no checker is on.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from subquad import ops
from subquad.ops import dispatch

ROWS, CHANNELS, LENGTH, STATES = 2, 4, 20, 3


def random(*shape: int) -> Tensor:
    """Normal numbers that want a gradient."""
    return torch.randn(shape).requires_grad_()


def state(*shape: int) -> Tensor:
    """Normal numbers that a step changes in place."""
    return torch.randn(shape)


def poles() -> Tensor:
    """Log poles that want a gradient."""
    return (-torch.rand(CHANNELS, STATES)).requires_grad_()


def _scan() -> object:
    x, steps = random(ROWS, CHANNELS, LENGTH), torch.rand(ROWS, CHANNELS, LENGTH).requires_grad_()
    into, out = random(ROWS, 1, STATES, LENGTH), random(ROWS, 1, STATES, LENGTH)
    skip, before = random(CHANNELS), random(ROWS, CHANNELS, STATES)
    return ops.selective_scan(x, steps, poles(), into, out, skip=skip, initial_state=before, backend="triton")


def _gated(convolve: Callable[..., object], *filters: Tensor) -> object:
    z, projection = random(ROWS, 3 * CHANNELS, LENGTH), random(3 * CHANNELS, 3)
    return convolve(z, projection, *filters, skip=random(CHANNELS), backend="triton")


def _rotate() -> object:
    return ops.rotary(random(ROWS, LENGTH, 2, 8), torch.arange(LENGTH)[None], torch.ones(4), backend="triton")


def _rotate_into() -> object:
    caches = state(ROWS, LENGTH, 2, 8), state(ROWS, LENGTH, 2, 8)
    qkv, places = torch.randn(ROWS, LENGTH, 2, 3, 8), torch.arange(LENGTH)[None]
    return ops.rotary_into(qkv, places, torch.ones(4), *caches, backend="triton")


def _fir_step() -> object:
    position = torch.tensor([5, 6])
    ring = state(ROWS, CHANNELS, 4)
    return ops.fir_step(state(ROWS, CHANNELS), state(CHANNELS, 5), ring, position, backend="triton")


def _modal_step() -> object:
    memory = state(ROWS, CHANNELS, STATES)
    modes = -torch.rand(CHANNELS, STATES), state(CHANNELS, STATES)
    return ops.modal_step(state(ROWS, CHANNELS), *modes, memory, backend="triton")


def _gated_step(projection: ops.StepProjection | None) -> object:
    rows = ROWS if projection is None else 1  # a single row is projected by the kernel itself
    x = state(rows, 3 * CHANNELS if projection is None else LENGTH)
    rings = state(rows, 3 * CHANNELS, 2), state(rows, CHANNELS, 6)
    position = torch.tensor([5, 6])[:rows]
    taps = state(3 * CHANNELS, 3), state(CHANNELS, 7)
    return ops.gated_conv_step(x, *taps, *rings, position, projection=projection, backend="triton")


def _attention_step() -> object:
    pools = state(12, 2, 8), state(12, 2, 8)
    pages = torch.tensor([[0, 2], [1, 0]], dtype=torch.int32)
    position = torch.tensor([3, 5])
    return ops.attention_step(
        state(ROWS, 2, 3, 8), *pools, pages, position, torch.ones(4), page_size=4, backend="triton"
    )


# Each operator of torch that is to be reached, and a call that reaches it.
CASES: dict[str, Callable[[], object]] = {
    "causal_conv_triton": lambda: ops.causal_conv(
        random(ROWS, CHANNELS, LENGTH), random(CHANNELS, 9), bias=random(CHANNELS), backend="triton"
    ),
    "gated_conv_triton": lambda: _gated(ops.gated_conv, random(CHANNELS, 9)),
    "gated_modal_conv_triton": lambda: _gated(ops.gated_modal_conv, poles(), random(CHANNELS, STATES)),
    "modal_conv_triton": lambda: ops.modal_conv(
        random(ROWS, CHANNELS, LENGTH), poles(), random(CHANNELS, STATES), backend="triton"
    ),
    "selective_scan_triton": _scan,
    "rms_norm_triton": lambda: ops.rms_norm(random(ROWS, LENGTH), random(LENGTH), backend="triton"),
    "gated_product_triton": lambda: ops.gated_product(random(ROWS, LENGTH), random(ROWS, LENGTH), backend="triton"),
    "rotary_triton": _rotate,
    "rotary_into_triton": _rotate_into,
    "fir_step_triton": _fir_step,
    "modal_step_triton": _modal_step,
    "gated_step_triton": lambda: _gated_step(None),
    "projected_gated_step_triton": lambda: _gated_step(ops.StepProjection(state(3 * CHANNELS, LENGTH))),
    "linear_step_triton": lambda: ops.linear_step(state(ROWS, LENGTH), state(CHANNELS, LENGTH), backend="triton"),
    "gated_linear_step_triton": lambda: ops.gated_linear_step(
        state(ROWS, LENGTH), state(CHANNELS, LENGTH), state(CHANNELS, LENGTH), backend="triton"
    ),
    "attention_step_triton": _attention_step,
    "greedy_step_triton": lambda: ops.greedy_step(
        state(ROWS, LENGTH), torch.zeros(ROWS, dtype=torch.int64), backend="triton"
    ),
    "rounded_rows_triton": lambda: ops.rounded_rows(torch.randn(ROWS, LENGTH, 16), backend="triton"),
}


class _Reached(TorchDispatchMode):
    """Notes our operators and copies of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "subquad":
            self.calls.append((func, *tree_map_only(Tensor, _copy, (tuple(args), dict(kwargs or {})))))
        return func(*args, **(kwargs or {}))


def _copy(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_(value.requires_grad)


def check(name: str, call: Callable[[], object]) -> None:
    """Makes the call, and checks each of our operators that it reached."""
    with _Reached() as reached:
        call()
    assert [str(func) for func, _, _ in reached.calls] == [f"subquad.{name}.default"], reached.calls
    for func, args, kwargs in reached.calls:
        torch.library.opcheck(func, args, kwargs)


def main() -> None:
    """Checks every operator; the exit status is 1 if one failed."""
    torch.manual_seed(0)
    vars(dispatch)["runs_plainly"] = lambda *_: False  # before the kernels' modules take it from there
    failed = False
    for name, call in CASES.items():
        try:
            check(name, call)
            print(f"{name}: passed", flush=True)
        except Exception as error:  # one broken case must not hide the others
            failed = True
            print(f"{name}: {type(error).__name__}: {str(error)[:2000]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
