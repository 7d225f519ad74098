"""One decode step of a causal FIR filter on a ring of past samples."""

from subquad.ops.fir_step.fir_step import fir_step as fir_step
from subquad.ops.fir_step.ring import fill_ring as fill_ring
from subquad.ops.fir_step.ring import history_from_ring as history_from_ring
from subquad.ops.fir_step.ring import ring_from_history as ring_from_history
