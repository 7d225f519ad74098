"""Channel-first to length-first and back."""

from subquad.ops.rearrange.rearrange import rearrange as rearrange
