"""Causal depthwise convolution with explicit taps."""

from subquad.ops.causal_conv.causal_conv import causal_conv as causal_conv
from subquad.ops.causal_conv.causal_conv import causal_conv_with_state as causal_conv_with_state
