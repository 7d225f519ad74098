"""Convolution with a filter that is a sum of real exponentials."""

from subquad.ops.modal_conv.modal_conv import modal_conv as modal_conv
from subquad.ops.modal_conv.modal_conv import modal_conv_with_state as modal_conv_with_state
from subquad.ops.modal_conv.modal_filter import modal_filter as modal_filter
