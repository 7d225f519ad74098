"""Rotary position embedding, alone or on the way into a key-value cache."""

from subquad.ops.rotary.rotary import rotary as rotary
from subquad.ops.rotary.rotary import rotary_into as rotary_into
