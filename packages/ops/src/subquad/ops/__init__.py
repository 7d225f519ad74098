"""Subquadratic sequence operators: causal, gated, modal and FFT convolutions, scans and their decode steps."""

from subquad.ops.causal_conv import causal_conv as causal_conv
from subquad.ops.causal_conv import causal_conv_with_state as causal_conv_with_state
from subquad.ops.dispatch import Explanation as Explanation
from subquad.ops.dispatch import explain as explain
from subquad.ops.errors import ArgumentOutOfRange as ArgumentOutOfRange
from subquad.ops.errors import BackendUnavailable as BackendUnavailable
from subquad.ops.errors import DeviceMismatch as DeviceMismatch
from subquad.ops.errors import DtypeMismatch as DtypeMismatch
from subquad.ops.errors import OpsError as OpsError
from subquad.ops.errors import ShapeMismatch as ShapeMismatch
from subquad.ops.fft_conv import fft_conv as fft_conv
from subquad.ops.fir_step import fir_step as fir_step
from subquad.ops.fir_step import history_from_ring as history_from_ring
from subquad.ops.fir_step import ring_from_history as ring_from_history
from subquad.ops.gated_conv import GatedConvState as GatedConvState
from subquad.ops.gated_conv import gated_conv as gated_conv
from subquad.ops.gated_conv import gated_conv_with_state as gated_conv_with_state
from subquad.ops.gated_modal_conv import GatedModalState as GatedModalState
from subquad.ops.gated_modal_conv import gated_modal_conv as gated_modal_conv
from subquad.ops.gated_modal_conv import gated_modal_conv_with_state as gated_modal_conv_with_state
from subquad.ops.modal_conv import modal_conv as modal_conv
from subquad.ops.modal_conv import modal_conv_with_state as modal_conv_with_state
from subquad.ops.modal_conv import modal_filter as modal_filter
from subquad.ops.modal_step import modal_step as modal_step
from subquad.ops.rearrange import rearrange as rearrange
from subquad.ops.selective_scan import selective_scan as selective_scan
