"""Gradients of the CUDA library's marching kernels against the torch form in float64, without and with states."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from subquad import ops
from tools.testing.oracle import assert_as_exact_as

_ALLOWED = 5e-3  # relative, of a bfloat16 stream's gradients; those of float32 are held to plain torch's
# Gradients of few numbers are long sums, some near zero: the order of summing shows, and in bfloat16 its 8-bit pieces.
_FEW, _ALLOWED_OF_FEW = 64, {torch.float32: 1e-5, torch.bfloat16: 4e-2}
_TAPS = (2, 7, 40, 128, 129)
_PROJECTION_TAPS = (3, 1, 2, 3, 3)
_LENGTHS = (1, 60, 1100, 8192, 20001)
_STATES_LENGTHS = (1, 5, 60, 256, 1100, 9000)

Results = tuple[Tensor, ...]


def _random(device: torch.device, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=device).to(dtype)


def _modes(device: torch.device, states: int) -> tuple[Tensor, Tensor]:
    return -0.5 * torch.rand(2, states, device=device), _random(device, 2, states)


def stream_gradients(device: torch.device, backend: str, dtype: torch.dtype) -> None:
    """Gradients of the output for every parameter."""

    def hold(function: Callable[..., Tensor], *inputs: Tensor) -> None:
        _hold(lambda *leaves, **options: (function(*leaves, **options),), backend, *inputs)

    poles, residues = _modes(device, 16)
    for length in _LENGTHS:
        z, x = _random(device, 2, 6, length, dtype=dtype), _random(device, 2, 2, length, dtype=dtype)
        p, skip, bias = _random(device, 6, 3, dtype=dtype), *(_random(device, 2, dtype=dtype) for _ in range(2))
        for taps in _TAPS:
            w = _random(device, 2, taps, dtype=dtype)
            hold(lambda x, w, s, b, **o: ops.causal_conv(x, w, skip=s, bias=b, **o), x, w, skip, bias)
            hold(lambda z, p, w, s, **o: ops.gated_conv(z, p, w, skip=s, **o), z, p, w, skip)
        hold(lambda x, e, r, s, **o: ops.modal_conv(x, e, r, skip=s, **o), x, poles, residues, skip)
        hold(lambda z, p, e, r, s, **o: ops.gated_modal_conv(z, p, e, r, skip=s, **o), z, p, poles, residues, skip)


def state_gradients(device: torch.device, backend: str, dtype: torch.dtype) -> None:
    """Gradients of the output and of the last states, for every parameter and the first states."""
    for length in _STATES_LENGTHS:
        z, x = _random(device, 2, 6, length, dtype=dtype), _random(device, 2, 2, length, dtype=dtype)
        skip = _random(device, 2, dtype=dtype)
        for taps, projection in zip(_TAPS, _PROJECTION_TAPS, strict=True):
            w, p = _random(device, 2, taps, dtype=dtype), _random(device, 6, projection, dtype=dtype)
            before = _random(device, 2, 2, taps - 1, dtype=dtype)
            past = _random(device, 2, 6, projection - 1, dtype=dtype)
            _hold(_causal, backend, x, w, skip, before)
            _hold(_gated, backend, z, p, w, skip, past, before)
        for states in (3, 16):
            poles, residues = _modes(device, states)
            p, before = _random(device, 6, 3, dtype=dtype), _random(device, 2, 2, states)
            past = _random(device, 2, 6, 2, dtype=dtype)
            _hold(_modal, backend, x, poles, residues, skip, before)
            _hold(_gated_modal, backend, z, p, poles, residues, skip, past, before)
    _only_of_the_state(device, backend, dtype)


def few_taps_gradients(device: torch.device, backend: str, dtype: torch.dtype) -> None:
    """Gradients of gated_conv around the ends of what one warp takes at once, with every count of few taps and gate."""
    for turn, length in enumerate((8, 232, 240, 248, 8192, 8200, 8440, 16640)):
        for taps in range(2, 8):
            gates = {"pregate": (turn + taps) % 4 != 0, "postgate": (turn + taps) % 4 != 1}
            projection = 1 + (turn + taps) % 3
            z, skip = _random(device, 2, 6, length, dtype=dtype), _random(device, 2, dtype=dtype)
            w, p = _random(device, 2, taps, dtype=dtype), _random(device, 6, projection, dtype=dtype)
            past = _random(device, 2, 6, projection - 1, dtype=dtype)
            before = _random(device, 2, 2, taps - 1, dtype=dtype)
            _hold(
                lambda *inputs, gates=gates, **options: _gated(*inputs, **gates, **options),
                backend, z, p, w, skip, past, before,
            )  # fmt: skip
            _hold(
                lambda z, p, w, gates=gates, **options: (ops.gated_conv(z, p, w, **gates, **options),),
                backend, z, p, w[:1],
            )  # fmt: skip


def _only_of_the_state(device: torch.device, backend: str, dtype: torch.dtype) -> None:
    """Gradients where the output is not used."""
    z, p, skip = (_random(device, *shape, dtype=dtype) for shape in ((2, 6, 700), (6, 3), (2,)))
    w, before, past = (_random(device, *shape, dtype=dtype) for shape in ((2, 40), (2, 2, 39), (2, 6, 2)))
    poles, residues = _modes(device, 16)
    state = _random(device, 2, 2, 16)
    _hold(lambda *inputs, **options: _gated(*inputs, **options)[2:], backend, z, p, w, skip, past, before)
    _hold(
        lambda *inputs, **options: _gated_modal(*inputs, **options)[2:],
        backend, z, p, poles, residues, skip, past, state,
    )  # fmt: skip
    _hold(
        lambda *inputs, **options: _modal(*inputs, **options)[1:], backend, z[:, :2], poles, residues, skip, state
    )  # fmt: skip


def _causal(x: Tensor, w: Tensor, skip: Tensor, before: Tensor, **options: str) -> Results:
    return ops.causal_conv_with_state(x, w, skip=skip, initial_state=before, **options)


def _gated(z: Tensor, p: Tensor, w: Tensor, skip: Tensor, past: Tensor, before: Tensor, **options: Any) -> Results:
    state = ops.GatedConvState(past, before)
    y, after = ops.gated_conv_with_state(z, p, w, skip=skip, initial_state=state, **options)
    return y, *after


def _modal(x: Tensor, poles: Tensor, residues: Tensor, skip: Tensor, before: Tensor, **options: str) -> Results:
    return ops.modal_conv_with_state(x, poles, residues, skip=skip, initial_state=before, **options)


def _gated_modal(
    z: Tensor, p: Tensor, poles: Tensor, residues: Tensor, skip: Tensor, past: Tensor, before: Tensor, **options: str
) -> Results:
    state = ops.GatedModalState(past, before)
    y, after = ops.gated_modal_conv_with_state(z, p, poles, residues, skip=skip, initial_state=state, **options)
    return y, *after


def _hold(function: Callable[..., Results], backend: str, *inputs: Tensor) -> None:
    """Holds the gradient of every input, for random gradients of every result, to the torch form."""
    noise: list[Tensor] = []

    def run(leaves: list[Tensor], backend: str) -> Results:
        leaves = [x.detach().clone().requires_grad_() for x in leaves]
        results = [y for y in function(*leaves, backend=backend) if y.requires_grad]
        if not noise:
            noise.extend(torch.randn_like(y) for y in results)
        upstream = [u.to(y) for u, y in zip(noise, results, strict=True)]
        found = torch.autograd.grad(results, leaves, upstream, allow_unused=True)
        return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True))

    plain, got = run(list(inputs), "torch"), run(list(inputs), backend)
    oracle = run([x.double() for x in inputs], "torch")
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    for i, (g, p, o) in enumerate(zip(got, plain, oracle, strict=True)):
        name = f"gradient {i} of {shapes}"
        few = g.numel() < _FEW
        if inputs[0].dtype == torch.float32 and not few:
            assert_as_exact_as(name, o, p, g)
            continue
        assert g.shape == o.shape, f"{name}: shape {tuple(g.shape)}"
        error, ordinary = (float((value.double() - o).norm()) for value in (g, p))
        allowed = (_ALLOWED_OF_FEW[inputs[0].dtype] if few else _ALLOWED) * float(o.norm())
        assert error <= max(2 * ordinary, allowed), f"{name}: {error:.2e}, torch {ordinary:.2e}, allowed {allowed:.2e}"
