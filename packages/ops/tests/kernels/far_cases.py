"""Tensors whose rows lie so far apart that a place in memory is a number of more than 31 bits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subquad import ops

_STRIDE = 1 << 30  # two rows on, 32 bits no longer hold the place


def _apart(x: Tensor, dim: int) -> Tensor:
    """The same numbers, ``_STRIDE`` from one index of ``dim`` to the next, in memory of which little is touched."""
    strides = list(x.contiguous().stride())
    strides[dim] = _STRIDE
    memory = torch.empty(_STRIDE * (x.shape[dim] - 1) + x.numel(), dtype=x.dtype, device=x.device)
    return memory.as_strided(x.shape, strides).copy_(x)


def _hold(operator: Callable[..., Tensor], *inputs: Tensor, dim: int, place: int = 0, **options: object) -> None:
    """Asserts that an input gives the same wherever its rows lie."""
    given = [_apart(x, dim) if index == place else x for index, x in enumerate(inputs)]
    assert torch.equal(operator(*given, **options), operator(*inputs, **options))


def far_strides(device: torch.device, backend: str) -> None:
    """Streams of far channels through the convolutions."""
    z = torch.randn(1, 3, 40, device=device).half() if backend == "triton" else torch.randn(1, 3, 40, device=device)
    modes = [-torch.rand(3, 4, device=device), torch.randn(3, 4, device=device)]
    _hold(ops.causal_conv, z, torch.randn(3, 5, device=device), dim=1, backend=backend)
    _hold(ops.causal_conv, z, torch.randn(3, 20, device=device), dim=1, backend=backend)
    _hold(ops.modal_conv, z, *modes, dim=1, backend=backend)
    taps = torch.randn(3, 3, device=device)
    for size in (5, 20):
        _hold(ops.gated_conv, z, taps, torch.randn(1, size, device=device), dim=1, backend=backend)
    _hold(ops.gated_modal_conv, z, taps, *(mode[:1] for mode in modes), dim=1, backend=backend)


def far_rows(device: torch.device, backend: str = "triton") -> None:
    """Heads, groups and states that lie far apart, as in the cache of a long sequence."""
    at, turns = torch.arange(2, device=device)[None], torch.rand(2, device=device)
    _hold(ops.rotary, torch.randn(1, 2, 3, 4, device=device).half(), at, turns, dim=2, backend=backend)
    qkv = torch.randn(1, 2, 3, 3, 4, device=device).half()
    keys, values = torch.zeros(2, 1, 2, 3, 4, device=device).half()
    far = _apart(keys, 2), _apart(values, 2)
    for dim in (2, 3):
        queries = ops.rotary_into(_apart(qkv, dim), at, turns, *far, backend=backend)
        assert torch.equal(queries, ops.rotary_into(qkv, at, turns, keys, values, backend=backend))
        assert all(torch.equal(*pair) for pair in zip(far, (keys, values), strict=True))
    x, decay = torch.randn(1, 3, 5, device=device).half(), -torch.rand(3, 3, device=device)
    weights = torch.randn(2, 1, 3, 3, 5, device=device).half().unbind()
    for place in (0, 1):
        _hold(ops.selective_scan, x, x.abs(), decay, *weights, dim=1, place=place, backend=backend)
    for dim in (1, 2):
        given = weights[0], _apart(weights[1], dim)
        for far in (given, given[::-1]):
            with pytest.raises(ops.BackendUnavailable, match=r"weights of a sample that lie 2\*\*31 numbers or more"):
                ops.selective_scan(x, x.abs(), decay, *far, backend=backend)
    _far_logits(device)


def _far_logits(device: torch.device) -> None:
    """The third row of a vocabulary as long as ``_STRIDE``, of which the kernel is told to read four tokens."""
    from subquad.ops.greedy_step.triton.kernels import greedy_step_kernel

    logits = torch.tensor([[0.0, 9.0, 0.0, 1.0], [7.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 5.0]], device=device)
    ids = torch.zeros(3, dtype=torch.int64, device=device)
    table = torch.zeros(3, 3, dtype=torch.float64, device=device)
    greedy_step_kernel[(3,)](_apart(logits, 0), ids, ids, table, _STRIDE, TOKENS=4, ACTIVE=False, DEPENDENT=False)
    assert ids.tolist() == [1, 0, 3]
