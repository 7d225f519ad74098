"""A causal convolution, a gate, a modal convolution and a gate."""

from subquad.ops.gated_modal_conv.gated_modal_conv import GatedModalState as GatedModalState
from subquad.ops.gated_modal_conv.gated_modal_conv import gated_modal_conv as gated_modal_conv
from subquad.ops.gated_modal_conv.gated_modal_conv import gated_modal_conv_with_state as gated_modal_conv_with_state
