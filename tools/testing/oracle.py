"""The one place that knows how exact a result must be.

An operator is checked against two runs of its own definition: in float64 (the oracle) and in float32 rounded to the
tested dtype (plain). The candidate's root-mean-square and largest error, of the output and of every gradient, may be
at most twice those of plain, or a floor of a few units in the last place where plain happens to be exact.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# In units of eps of the dtype, times the size of the oracle under the same measure.
_FLOOR = {torch.float64: 64.0, torch.float32: 16.0, torch.float16: 0.5, torch.bfloat16: 0.5}
_TWICE = 2.0


def _rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt()) if value.numel() else 0.0


def _largest(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0


_MEASURES: dict[str, Callable[[Tensor], float]] = {"root mean square": _rms, "largest": _largest}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Returns ``norm(actual - expected) / norm(expected)`` in float64 (the plain norm where expected is zero)."""
    want = expected.detach().double().cpu()
    error = (actual.detach().double().cpu() - want).norm()
    return float(error / want.norm()) if float(want.norm()) > 0 else float(error)


def assert_close(actual: Tensor, expected: Tensor, relative: float) -> None:
    """Asserts equal shapes, finite values and ``relative_error(actual, expected) <= relative``."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert bool(torch.isfinite(actual.detach()).all()), "the result holds values that are not finite"
    error = relative_error(actual, expected)
    assert error <= relative, f"relative error {error:.2e}, allowed {relative:.2e}"


def assert_matches_oracle(
    candidate: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    *inputs: Tensor,
    gradients: bool = True,
    channel_dim: int | None = None,
) -> None:
    """Asserts that a candidate computes what its reference defines, output and gradients.

    Args:
      candidate: the function under test, called with the inputs as they are.
      reference: its definition; called with the inputs in float64 and in float32.
      inputs: tensors; the first one's dtype is the tested dtype.
      gradients: also compare the gradient with respect to every input.
      channel_dim: also hold the error of the output for each index of this dimension on its own.
    """
    dtype = inputs[0].dtype
    upstream: Tensor | None = None

    def run(function: Callable[..., Tensor], at: torch.dtype | None) -> list[Tensor]:
        nonlocal upstream
        leaves = [x.detach().clone() if at is None else x.detach().to(at) for x in inputs]
        leaves = [x.requires_grad_(gradients) for x in leaves]
        out = function(*leaves)
        if upstream is None:
            noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
            upstream = noise.to(dtype).to(out.device)
        if not gradients:
            return [out.detach()]
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out))]

    oracle, plain, got = run(reference, torch.float64), run(reference, _plain_dtype(dtype)), run(candidate, None)
    assert got[0].dtype == dtype, f"output is {got[0].dtype}, the input {dtype}"
    names = ["output", *(f"gradient {i}" for i in range(len(inputs)))]
    for name, o, p, g in zip(names, oracle, plain, got, strict=False):
        assert_as_exact_as(name, o, p.to(g.dtype), g)
    if channel_dim is not None:
        triples = zip(*(r[0].unbind(channel_dim) for r in (oracle, plain, got)), strict=True)
        for channel, (o, p, g) in enumerate(triples):
            assert_as_exact_as(f"output of channel {channel}", o, p.to(g.dtype), g)


def _plain_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def assert_as_exact_as(name: str, oracle: Tensor, plain: Tensor, got: Tensor) -> None:
    """Asserts that ``got`` is at most twice as far from the float64 ``oracle`` as ``plain`` is, or within the floor."""
    assert got.shape == oracle.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(oracle.shape)}"
    unit = _FLOOR[got.dtype] * torch.finfo(got.dtype).eps
    for label, measure in _MEASURES.items():
        allowed = max(_TWICE * measure(plain.double() - oracle), unit * measure(oracle))
        error = measure(got.double() - oracle)
        assert error <= allowed, f"{name}: {label} error {error:.2e}, allowed {allowed:.2e}"
