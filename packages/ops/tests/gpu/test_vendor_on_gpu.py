"""The vendor's library behind backend="vendor": parity with our torch forms where it is installed."""

import pytest
import torch

from subquad import ops
from subquad.ops.dispatch import load_backend

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]


def test_the_library_is_usable_or_says_what_to_install() -> None:
    problem, offered = load_backend("vendor")
    print(f"\nvendor: {problem or sorted(i.operator for i in offered)}")
    assert problem is None or "subquad-ops[vendor]" in problem


@pytest.mark.skipif(load_backend("vendor")[0] is not None, reason=str(load_backend("vendor")[0]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_vendors_operators_agree_with_ours(dtype: torch.dtype) -> None:
    allowed = 2e-5 if dtype == torch.float32 else 1.5e-2
    x, z = torch.randn(2, 64, 4096, device="cuda").to(dtype), torch.randn(2, 192, 4096, device="cuda").to(dtype)
    projection, skip = torch.randn(192, 3, device="cuda").to(dtype), torch.randn(64, device="cuda").to(dtype)
    for taps in (4, 7, 128):
        w = (torch.randn(64, taps, device="cuda") / taps**0.5).to(dtype)
        pairs = [
            (ops.causal_conv(x, w, backend="vendor"), ops.causal_conv(x.double(), w.double())),
            (
                ops.gated_conv(z, projection, w, skip=skip, backend="vendor"),
                ops.gated_conv(z.double(), projection.double(), w.double(), skip=skip.double()),
            ),
        ]
        for got, exact in pairs:
            error = float((got.double() - exact).norm() / exact.norm())
            print(f"\n{dtype} {taps} taps: relative error {error:.2e}")
            assert error < allowed
    w = (torch.randn(64, 4096, device="cuda") / 64).to(dtype)
    exact = ops.fft_conv(x.double(), w.double(), causal=True)
    got = ops.fft_conv(x, w, causal=True, backend="vendor")
    assert float((got.double() - exact).norm() / exact.norm()) < allowed
