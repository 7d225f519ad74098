"""One decode step of a modal filter."""

from subquad.ops.modal_step.modal_step import modal_step as modal_step
