"""Convolving one token at a time: the tiles hold every pair once, and hardly cost more the longer the sequence is."""

import pytest
import torch
from torch import Tensor

from subquad.lazy_config import LazyConfig
from subquad.modules import CKConv, SIRENFilter
from subquad.modules.mixers import online_convolution
from tools.testing.oracle import assert_close

ROOM = 70


def test_every_end_of_a_chunk_goes_on_as_if_tokens_had_come_one_by_one() -> None:
    torch.manual_seed(0)
    x, taps = torch.randn(2, 3, ROOM, dtype=torch.float64), torch.randn(3, ROOM, dtype=torch.float64)
    whole = torch.stack([(taps[:, : t + 1].flip(-1) * x[..., : t + 1]).sum(-1) for t in range(ROOM)], -1)
    stepped = torch.zeros_like(x)
    for end in range(1, ROOM):
        online_convolution.add_due_tiles(x, stepped, taps, [end] * 2, backend="auto")
        restarted = torch.full_like(x, 7.0)
        online_convolution.restart_tiles(x, restarted, taps, [end] * 2, backend="auto")
        assert_close(restarted[..., end:], stepped[..., end:], relative=1e-12)
        assert_close(stepped[..., end] + taps[:, 0] * x[..., end], whole[..., end], relative=1e-12)


def test_rows_at_positions_of_their_own_and_rows_left_out_do_not_meet() -> None:
    torch.manual_seed(0)
    x, taps = torch.randn(3, 2, 16), torch.randn(2, 16)
    together, alone = torch.zeros_like(x), torch.zeros_like(x)
    online_convolution.add_due_tiles(x, together, taps, [4, -1, 6], backend="auto")
    for row, end in ((0, 4), (2, 6)):
        online_convolution.add_due_tiles(x[row : row + 1], alone[row : row + 1], taps, [end], backend="auto")
    assert torch.equal(together[1], torch.zeros(2, 16))
    assert_close(together, alone, relative=1e-6)


@pytest.mark.parametrize("length", [256, 1024])
def test_the_points_convolved_for_a_token_grow_with_the_logarithm(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[int] = []
    convolve = online_convolution.fft_conv

    def counted(x: Tensor, *arguments: Tensor, **options: object) -> Tensor:
        points.append(x.shape[-1])
        return convolve(x, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(online_convolution, "fft_conv", counted)
    model = CKConv(2, LazyConfig(SIRENFilter)(hidden_dim=8), trained_size=length, causal=True).eval()
    made: list[int] = []
    model.filter.register_forward_hook(lambda *_: made.append(1))
    state = model.init_state(1, max_length=length)
    x = torch.randn(1, length, 2)
    with torch.inference_mode():
        for t in range(length):
            model.step(x[:, t, :0], x[:, t, :0], x[:, t], state)
            state.advance(1)
    assert sum(points) <= length * (length.bit_length() + 1)
    assert len(made) == 1
