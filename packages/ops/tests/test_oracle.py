"""The oracle accepts right results and rejects small faults."""

import pytest
import torch

from subquad.ops import causal_conv
from subquad.ops.causal_conv.reference import causal_conv_reference
from tools.testing.oracle import assert_close, assert_matches_oracle

FAULTS = {
    "the last sample is lost": lambda x, w: torch.cat([causal_conv(x, w)[..., :-1], 0 * x[..., -1:]], dim=-1),
    "the oldest tap is lost": lambda x, w: causal_conv(x, w[:, :-1]),
    "the gradient of the taps is 2 % off": lambda x, w: causal_conv(x, 1.02 * w - 0.02 * w.detach()),
    "the taps are rounded": lambda x, w: causal_conv(x, w.to(torch.float8_e5m2).to(w.dtype)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(dtype: torch.dtype, fault: str) -> None:
    x, w = torch.randn(2, 3, 64).to(dtype), torch.randn(3, 5).to(dtype)
    with pytest.raises(AssertionError, match="allowed"):
        assert_matches_oracle(FAULTS[fault], causal_conv_reference, x, w)


def test_one_bad_channel_is_found_on_its_own() -> None:
    x, w = torch.randn(1, 100, 500), torch.randn(100, 3)
    x[0, 7] *= 1e-6

    def faulty(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        scale = torch.ones(100, 1)
        scale[7] = 1.01
        return causal_conv(x, w) * scale

    with pytest.raises(AssertionError, match="output of channel 7"):
        assert_matches_oracle(faulty, causal_conv_reference, x, w, gradients=False, channel_dim=1)


def test_assert_close_names_shape_finiteness_and_error() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.ones(2), torch.ones(3), 1.0)
    with pytest.raises(AssertionError, match="not finite"):
        assert_close(torch.tensor([float("nan")]), torch.ones(1), 1.0)
    with pytest.raises(AssertionError, match=r"relative error 1\.00e-01, allowed 1\.00e-02"):
        assert_close(torch.tensor([1.1]).double(), torch.ones(1).double(), 1e-2)
