"""Two causal convolutions back to back with a gate before and after the second."""

from subquad.ops.gated_conv.gated_conv import GatedConvState as GatedConvState
from subquad.ops.gated_conv.gated_conv import gated_conv as gated_conv
from subquad.ops.gated_conv.gated_conv import gated_conv_with_state as gated_conv_with_state
