"""Root-mean-square normalisation, alone or of a sum."""

from subquad.ops.rms_norm.rms_norm import rms_norm as rms_norm
from subquad.ops.rms_norm.rms_norm import rms_norm_of_sum as rms_norm_of_sum
