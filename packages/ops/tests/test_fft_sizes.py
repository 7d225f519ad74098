"""The lengths that FFTs are padded to."""

import pytest

from subquad.ops.errors import ArgumentOutOfRange
from subquad.ops.fft_sizes import fast_fft_size, is_smooth


def test_a_size_is_smooth_large_enough_and_not_wasteful() -> None:
    for minimum in range(1, 3000):
        size = fast_fft_size(minimum)
        assert size >= minimum
        assert is_smooth(size)
        assert size <= 1.2 * minimum + 2


def test_a_power_of_two_wins_when_it_is_near() -> None:
    assert fast_fft_size(16000) == 16384
    assert fast_fft_size(16385) == 16464


@pytest.mark.parametrize("minimum", [0, -5])
def test_a_transform_of_no_samples_is_refused(minimum: int) -> None:
    with pytest.raises(ArgumentOutOfRange, match=f"minimum is {minimum}; accepted: 1 or more samples"):
        fast_fft_size(minimum)
