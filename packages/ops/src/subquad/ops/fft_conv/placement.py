"""Where the samples of an image stand in a square transform of one of the sizes that the image kernels know."""

from collections.abc import Sequence
from typing import NamedTuple

# Length of a transform: of its first and of its second pass, as in packages/ops/csrc/image_conv.cu.
PASSES = {
    16: (8, 2),
    24: (6, 4),
    28: (4, 7),
    32: (8, 4),
    48: (8, 6),
    56: (8, 7),
    64: (8, 8),
    80: (8, 10),
    84: (12, 7),
    96: (8, 12),
    112: (8, 14),
    128: (8, 16),
    144: (16, 9),
    160: (16, 10),
    192: (12, 16),
    224: (16, 14),
}
LARGE_SIZES = (256, 288, 320, 336, 384, 400, 448, 512)  # that no block's shared memory holds, as in image_large.cu
SIZES = (*PASSES, *LARGE_SIZES)


class Axis(NamedTuple):
    """Sample s stands at ``s + shift``; below ``extent`` also at ``s + shift - period`` and ``s + shift + period``."""

    size: int
    extent: int
    shift: int = 0
    period: int = 0


class Placement(NamedTuple):
    """One axis of a call: the samples, the taps that reach them, the tap that is the centre, and how they are placed.

    A zero axis, and a circle as long as the transform, stand at the origin. Any other circle is continued on both sides
    by what the filter reaches, and the samples that come out right lie behind the part in front.
    """

    size: int
    taps: int
    centre: int
    wraps: bool

    def samples(self, *, backward: bool = False) -> Axis:
        """Places what is convolved, or in backward, where the filter is turned round, the gradient."""
        if not self.wraps:
            return Axis(self.size, self.size)
        before = self.centre if backward else self.taps - 1 - self.centre
        return Axis(self.size, self.size + self.taps - 1, before, self.size)

    def results(self, *, backward: bool = False) -> Axis:
        """Places what comes out, once; in backward the gradient of the samples."""
        shift = self.samples(backward=backward).shift
        return Axis(self.size, shift + self.size, shift)

    def filter(self, transform: int) -> Axis:
        """Places the taps, the centre at the origin and those before it at the end."""
        return Axis(self.taps, transform, -self.centre, transform)

    def needed(self) -> int:
        """Returns the shortest transform."""
        if self.wraps:
            return self.size + self.taps - 1
        return self.size + max(self.centre, self.taps - 1 - self.centre)


def place(
    space: Sequence[int], taps: Sequence[int], centres: Sequence[int], boundary: Sequence[str]
) -> tuple[int, list[Placement]]:
    """Chooses the smallest square transform that holds an image and its filter; 0 where none of SIZES does.

    Args:
      space: samples of each axis.
      taps: no more than can act on them, see ``reaching_taps``.
      centres: the tap of each axis that meets the current sample.
      boundary: ``"zero"`` or ``"circular"`` for each axis.
    """
    for transform in SIZES:
        placements = []
        for size, tap, centre, kind in zip(space, taps, centres, boundary, strict=True):
            if kind == "circular":
                placements.append(Placement(size, tap, centre % size, wraps=size != transform))
            else:
                placements.append(Placement(size, tap, centre, wraps=False))
        circles = [p.wraps or kind == "zero" for p, kind in zip(placements, boundary, strict=True)]
        if all(not linear or p.needed() <= transform for p, linear in zip(placements, circles, strict=True)):
            return transform, placements
    return 0, []
