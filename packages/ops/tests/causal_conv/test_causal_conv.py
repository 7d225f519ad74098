"""causal_conv against its definition."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import pad

from subquad.ops import causal_conv, causal_conv_with_state
from subquad.ops.causal_conv.causal_filter import Form, convolve
from subquad.ops.causal_conv.reference import causal_conv_at, causal_conv_reference
from subquad.ops.causal_conv.windows import convolve_in_windows
from tools.testing.oracle import assert_close, assert_matches_oracle

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def test_reference_is_the_printed_sum() -> None:
    x, taps = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    y = causal_conv_reference(x, taps)
    for b in range(2):
        for c in range(4):
            for t in range(6):
                expected = sum(taps[c // 2, k] * x[b, c, t - k] for k in range(3) if k <= t)
                assert abs(float(y[b, c, t] - expected)) < 1e-12


def test_reference_at_some_samples_is_the_reference() -> None:
    x, samples = torch.randn(2, 4, 30, dtype=torch.float64), [0, 3, 17, 29]
    for taps in (torch.randn(2, 5, dtype=torch.float64), torch.randn(4, 50, dtype=torch.float64)):
        assert_close(causal_conv_at(x, taps, samples), causal_conv_reference(x, taps)[..., samples], 1e-12)


@pytest.mark.parametrize("length", [1, 2, 17])
def test_every_tap_count_up_to_twice_the_length_equals_the_direct_sum(length: int) -> None:
    for taps in range(1, 2 * length + 1):
        x, w = torch.randn(2, 3, length, dtype=torch.float64), torch.randn(3, taps, dtype=torch.float64)
        assert_close(causal_conv(x, w), causal_conv_reference(x, w), 1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("taps", [1, 2, 7, 8, 65, 128, 256, 300])
def test_output_and_gradients_match_the_oracle(dtype: torch.dtype, taps: int) -> None:
    for length in (1, 63, 100, 1000):
        x, w = torch.randn(2, 4, length).to(dtype), (torch.randn(2, taps) / taps**0.5).to(dtype)
        assert_matches_oracle(causal_conv, causal_conv_reference, x, w, channel_dim=1)


@pytest.mark.parametrize("form", ["direct", "toeplitz", "overlap_save", "fft"])
@pytest.mark.parametrize("taps", [1, 3, 33, 200])
@pytest.mark.parametrize("recorded", [False, True])
def test_all_forms_compute_the_same(form: Form, taps: int, recorded: bool) -> None:
    stream = torch.randn(2, 3, taps - 1 + 2048, dtype=torch.float64)
    rows = torch.randn(3, taps, dtype=torch.float64, requires_grad=recorded)
    expected = causal_conv_reference(stream, rows)[..., taps - 1 :]
    assert_close(convolve(stream, rows, form), expected, 1e-12)


@pytest.mark.parametrize("form", ["direct", "toeplitz", "overlap_save", "fft"])
@pytest.mark.parametrize("length", [1, 2, 17, 64])
def test_every_tap_count_up_to_twice_the_length_suits_every_form(form: Form, length: int) -> None:
    for taps in range(1, 2 * length + 1):
        x, w = torch.randn(2, 3, length, dtype=torch.float64), torch.randn(3, taps, dtype=torch.float64)
        assert_close(convolve(pad(x, (taps - 1, 0)), w, form), causal_conv_reference(x, w), 1e-12)


@pytest.mark.parametrize("taps", [3, 40, 100, 300])
def test_a_changed_future_sample_changes_nothing_before_it(taps: int) -> None:
    x, w = torch.randn(1, 2, 200, dtype=torch.float64), torch.randn(2, taps, dtype=torch.float64)
    other = x.clone()
    other[..., 120] += 1e3
    assert_close(causal_conv(other, w)[..., :120], causal_conv(x, w)[..., :120], 1e-10)


@pytest.mark.parametrize("taps", [1, 3, 7, 70, 300])
@pytest.mark.parametrize("cut", [1, 2, 50, 199])
def test_two_calls_joined_by_the_state_equal_one(taps: int, cut: int) -> None:
    x, w = torch.randn(2, 3, 200, dtype=torch.float64), torch.randn(3, taps, dtype=torch.float64)
    whole, end = causal_conv_with_state(x, w)
    first, state = causal_conv_with_state(x[..., :cut], w)
    second, last = causal_conv_with_state(x[..., cut:], w, initial_state=state)
    assert_close(torch.cat([first, second], dim=-1), whole, 1e-12)
    assert torch.equal(last, end)
    assert state.shape == (2, 3, taps - 1)


def test_state_of_a_short_sequence_is_zero_filled_on_the_left() -> None:
    x = torch.tensor([[[1.0, 2.0]]])
    _, state = causal_conv_with_state(x, torch.ones(1, 5))
    assert state.flatten().tolist() == [0.0, 0.0, 1.0, 2.0]


def test_state_owns_its_memory() -> None:
    _, state = causal_conv_with_state(torch.randn(1, 2, 1000), torch.ones(2, 3))
    assert state.untyped_storage().nbytes() == 1 * 2 * 2 * 4


def test_bias_skip_and_activation_follow_the_equation() -> None:
    x, w = torch.randn(2, 3, 20, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    bias, skip = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    total = causal_conv_reference(x, w) + skip[:, None] * x + bias[:, None]
    assert_close(causal_conv(x, w, bias=bias, skip=skip), total, 1e-12)
    silu, gelu = torch.nn.functional.silu, torch.nn.functional.gelu
    assert_close(causal_conv(x, w, bias=bias, skip=skip, activation="silu"), silu(total), 1e-12)
    assert_close(causal_conv(x, w, bias=bias, skip=skip, activation="gelu"), gelu(total), 1e-12)


def test_both_layouts_and_any_strides_give_the_same() -> None:
    x, w = torch.randn(2, 50, 4), torch.randn(4, 5)
    expected = causal_conv(x.transpose(1, 2).contiguous(), w)
    assert torch.equal(causal_conv(x.transpose(1, 2), w), expected)
    assert torch.equal(causal_conv(x, w, layout="BLH").transpose(1, 2), expected)
    wide = torch.randn(2, 4, 100)
    assert torch.equal(causal_conv(wide[..., ::2], w), causal_conv(wide[..., ::2].contiguous(), w))


@pytest.mark.parametrize("shape", [(0, 3, 10), (2, 3, 0)])
def test_an_empty_call_returns_an_empty_result_with_gradients(shape: tuple[int, int, int]) -> None:
    x, w = torch.randn(shape, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    y = causal_conv(x, w)
    y.sum().backward()
    assert y.shape == shape
    assert w.grad is not None
    assert not w.grad.any()


@pytest.mark.parametrize("taps", [1, 3, 9, 70, 300])
def test_gradcheck_passes_in_float64(taps: int) -> None:
    x = torch.randn(2, 2, 9, dtype=torch.float64, requires_grad=True)
    w = torch.randn(1, taps, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 2, taps - 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *a: causal_conv(a[0], a[1], initial_state=a[2]), (x, w, state), fast_mode=True)
    assert gradgradcheck(causal_conv, (x, w), fast_mode=True)


@pytest.mark.parametrize("taps", [3, 40, 100, 300])
def test_poisoned_memory_never_reaches_the_result(taps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: real(*a, **k).fill_(float("nan")))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda t, shape: torch.full(shape, float("nan"), dtype=t.dtype))
    for length in (333, 2048, 4200, 8192):
        assert torch.isfinite(causal_conv(torch.randn(2, 3, length), torch.randn(3, taps))).all()


def test_a_nan_sample_only_spoils_its_own_channel_and_later_samples_of_a_direct_filter() -> None:
    x = torch.randn(1, 2, 40)
    x[0, 0, 20] = float("nan")
    y = causal_conv(x, torch.randn(2, 5))
    assert torch.isfinite(y[0, 1]).all()
    assert torch.isfinite(y[0, 0, :20]).all()
    assert torch.isfinite(y[0, 0, 25:]).all()


@pytest.mark.parametrize("length", [4096, 4200, 9001])
@pytest.mark.parametrize("continued", [False, True])
def test_windows_written_into_the_result_give_what_autograd_records(length: int, continued: bool) -> None:
    x, w = torch.randn(2, 6, length).double(), torch.randn(3, 130).double()
    before = torch.randn(2, 6, 129).double() if continued else None
    y = causal_conv(x, w, initial_state=before)
    assert_close(y, causal_conv(x.clone().requires_grad_(), w, initial_state=before), 1e-13)
    assert_close(y[..., :9], causal_conv_reference(x[..., :9], w, before), 1e-12)
    assert_close(causal_conv(x[:, ::2, 7:], w), causal_conv(x[:, ::2, 7:].contiguous(), w), 1e-13)


@pytest.mark.parametrize("shape", [(1, 5, 2048), (3, 5, 2560), (2, 5, 4999)])
@pytest.mark.parametrize("taps", [100, 128, 129, 200, 257])
@pytest.mark.parametrize("rows_at_once", [1, 3, 5, 11])
def test_windows_read_nothing_outside_their_own_channel(
    shape: tuple[int, int, int], taps: int, rows_at_once: int
) -> None:
    batch, channels, length = shape
    memory = torch.full((2000 + batch * channels * length,), float("nan"), dtype=torch.float64)
    x = memory[1000:-1000].view(shape).normal_()
    w, before = torch.randn(channels, taps).double(), torch.randn(batch, channels, taps - 1).double()
    assert_close(convolve_in_windows(x, w, None, rows_at_once), causal_conv_reference(x, w), 1e-12)
    assert_close(convolve_in_windows(x, w, before, rows_at_once), causal_conv_reference(x, w, before), 1e-12)
    spoilt = x.clone()
    spoilt[-1, 2] = float("nan")
    y = convolve_in_windows(spoilt, w, None, rows_at_once)
    others = [c for c in range(channels) if c != 2]
    assert torch.isfinite(y[-1, others]).all()
