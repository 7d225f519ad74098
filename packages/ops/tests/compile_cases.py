"""Compiles every operator into one graph and compares; prints a line a case. A program, so that no checker is on.

usage: compile_cases.py
"""

import sys
from collections.abc import Callable

import torch

from subquad import ops
from tools.testing.oracle import assert_close


def _position(x: torch.Tensor) -> torch.Tensor:
    """The time of one row, which the compiler cannot know."""
    return x[0, :1, 0].abs().long() + 8


def _times(x: torch.Tensor) -> torch.Tensor:
    """The times of a stream, for all rows alike."""
    return torch.arange(x.shape[-1])[None]


def _pages(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keys and values of two rows that have three pages each, and the pages."""
    return x.new_ones(24, 4, 6), x.new_ones(24, 4, 6), torch.arange(6).view(2, 3)


def _before(mixer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(2, 12, 2), mixer


def _together(y: torch.Tensor, state: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Numbers that depend on a result and a state of two parts."""
    return torch.cat([y.flatten(), *(part.flatten() for part in state)])


CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "causal_conv short": lambda x: ops.causal_conv(x, torch.ones(12, 3), activation="silu"),
    "causal_conv medium": lambda x: ops.causal_conv(x, torch.ones(12, 90)),
    "causal_conv long": lambda x: ops.causal_conv(x, torch.ones(12, 300)),
    "fft_conv": lambda x: ops.fft_conv(x, torch.ones(12, 9), boundary="circular"),
    "fp8_linear": lambda x: ops.fp8_linear(
        x, torch.ones(7, 50), input_scale=torch.tensor(16.0), weight_scale=torch.tensor(8.0)
    ),
    "gated_conv": lambda x: ops.gated_conv(x, torch.ones(12, 3), torch.ones(4, 7)),
    "modal_conv": lambda x: ops.modal_conv(x, -torch.ones(12, 4), torch.ones(12, 4)),
    "gated_modal_conv": lambda x: ops.gated_modal_conv(x, torch.ones(12, 3), -torch.ones(4, 4), torch.ones(4, 4)),
    "selective_scan": lambda x: ops.selective_scan(
        x, x.abs(), -torch.ones(12, 2), torch.ones(2, 1, 2, 50), torch.ones(2, 1, 2, 50)
    ),
    "rearrange": ops.rearrange,
    "rms_norm": lambda x: ops.rms_norm(x, torch.ones(50), form="vortex"),
    "rms_norm_of_sum": lambda x: torch.cat(ops.rms_norm_of_sum(x, x.flip(0), torch.ones(50))),
    "gated_linear": lambda x: ops.gated_linear(x, torch.ones(7, 50), torch.ones(7, 50), activation="gelu"),
    "gated_product": lambda x: ops.gated_product(x, activation="gelu"),
    "fft_conv of a filter a sample, of any length": lambda x: ops.fft_conv(x, torch.ones(2, 12, 9)),
    "rotary of any length": lambda x: ops.rotary(x.mT.unflatten(-1, (2, 6)), _times(x), torch.ones(3)),
    "rotary step": lambda x: ops.rotary(x.unflatten(-1, (5, 10)), torch.arange(12)[None], torch.ones(5)),
    "attention_step": lambda x: ops.attention_step(
        x[:, :, :6].unflatten(1, (4, 3)), *_pages(x), torch.tensor([3, 9]), torch.ones(3), page_size=4
    ),
    "rotary": lambda x: ops.rotary(x.unflatten(-1, (5, 10)), torch.arange(12)[None], torch.ones(5)),
    "fir_step": lambda x: ops.fir_step(x[..., 0], torch.ones(12, 3), torch.zeros(2, 12, 2), torch.tensor([0, 1])),
    "fir_step of one row": lambda x: ops.fir_step(x[:1, :, 0], torch.ones(12, 7), torch.zeros(1, 12, 6), _position(x)),
    "gated_conv_step": lambda x: ops.gated_conv_step(
        x[:1, :, 0], torch.ones(12, 3), torch.ones(4, 7), torch.zeros(1, 12, 2), torch.zeros(1, 4, 6), _position(x)
    ),
    "gated_modal_step": lambda x: ops.gated_modal_step(
        x[:1, :, 0],
        torch.ones(12, 3),
        *[-torch.ones(4, 5)] * 2,
        torch.zeros(1, 12, 2),
        torch.zeros(1, 4, 5),
        _position(x),
    ),
    "causal_conv packed": lambda x: ops.causal_conv(x[:1], torch.ones(12, 5), cu_seqlens=torch.tensor([0, 7, 7, 50])),
    "causal_conv of any length": lambda x: ops.causal_conv(x, torch.ones(12, 300), chunk_size=5),
    "fft_conv of any length": lambda x: ops.fft_conv(x, torch.ones(12, 9), chunk_size=5),
    "modal_conv of any length": lambda x: ops.modal_conv(x, -torch.ones(12, 4), torch.ones(12, 4), chunk_size=16),
    "causal_conv with its state, of any length": lambda x: torch.cat(
        ops.causal_conv_with_state(x, torch.ones(12, 90), initial_state=torch.ones(2, 12, 89)), dim=-1
    ),
    "gated_conv with its state, channels last, of any length": lambda x: _together(
        *ops.gated_conv_with_state(
            x.mT, torch.ones(12, 3), torch.ones(4, 7), initial_state=_before(torch.ones(2, 4, 6)), layout="BLH"
        )
    ),
    "gated_modal_conv with its state, of any length": lambda x: _together(
        *ops.gated_modal_conv_with_state(x, torch.ones(12, 3), -torch.ones(4, 4), torch.ones(4, 4), skip=torch.ones(4))
    ),
    "selective_scan with its state, of any length": lambda x: torch.cat(
        ops.selective_scan_with_state(x, x.abs(), -torch.ones(12, 2), *[x[:, None, :2]] * 2), dim=-1
    ),
    "modal_step": lambda x: ops.modal_step(x[..., 0], -torch.ones(12, 4), torch.ones(12, 4), torch.zeros(2, 12, 4)),
}


def check(case: Callable[[torch.Tensor], torch.Tensor], differentiable: bool, any_length: bool) -> None:
    """Compares result and gradient of the compiled and the plain call."""
    torch._dynamo.reset()
    compiled = torch.compile(case, fullgraph=True, backend="aot_eager", dynamic=any_length)
    for length in (50, 64, 77, 101) if any_length else (50,):
        compare(case, compiled, torch.randn(2, 12, length, requires_grad=differentiable))


def compare(
    case: Callable[[torch.Tensor], torch.Tensor], compiled: Callable[..., torch.Tensor], x: torch.Tensor
) -> None:
    """Compares one call."""
    got, expected = compiled(x), case(x)
    assert_close(got, expected, 1e-6)
    if x.requires_grad:
        (a,), (b,) = (torch.autograd.grad(y.square().sum(), x) for y in (got, expected))
        assert_close(a, b, 1e-5)


def main() -> None:
    """Runs every case; the exit status is 1 if one failed."""
    torch.manual_seed(0)
    failed = False
    for name, case in CASES.items():
        try:
            check(case, differentiable="step" not in name, any_length=name.endswith("of any length"))
            print(f"{name}: passed")
        except Exception as error:  # one broken case must not hide the others
            failed = True
            print(f"{name}: {type(error).__name__}: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
