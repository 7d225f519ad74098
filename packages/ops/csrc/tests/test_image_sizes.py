"""The transforms that placement chooses among are those that the library is compiled for."""

import re
from pathlib import Path

from subquad.ops.fft_conv.placement import LARGE_SIZES, PASSES

_SOURCES = Path(__file__).parents[1]


def test_small_transforms_are_split_into_the_same_passes() -> None:
    source = (_SOURCES / "image_conv.cu").read_text()
    found = re.findall(r"case (\d+):\s+return body\(ImageSetting<(\d+), (\d+),", source)
    assert {int(size): (int(first), int(second)) for size, first, second in found} == PASSES
    assert all(first * second == size for size, (first, second) in PASSES.items())


def test_large_transforms_are_of_the_same_sizes() -> None:
    source = (_SOURCES / "image_large.cu").read_text()
    found = re.findall(r"case (\d+):\s+return body\(LargeSetting<(\d+), (\d+)>", source)
    assert [int(size) for size, *_ in found] == list(LARGE_SIZES)
    assert all(int(first) * int(second) == int(size) for size, first, second in found)
