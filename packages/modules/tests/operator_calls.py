"""Counts which operators the Hyena layers call, for tests that claim a path."""

from collections import Counter

import pytest

import subquad.modules.mixers.fir as fir
import subquad.modules.mixers.fused_operators as fused_operators
import subquad.modules.mixers.modal as modal
import subquad.modules.mixers.split_convolution as split_convolution

WHERE = {
    fir: ("gated_conv", "gated_conv_with_state", "causal_conv_with_state", "fir_step", "gated_conv_step"),
    modal: (
        "gated_modal_conv",
        "gated_modal_conv_with_state",
        "modal_conv_with_state",
        "modal_step",
        "gated_modal_step",
    ),
    split_convolution: ("causal_conv", "modal_conv"),
    fused_operators: ("causal_conv_with_state",),
}
FUSED = frozenset({"gated_conv", "gated_conv_with_state", "gated_modal_conv", "gated_modal_conv_with_state"})


def counted_operators(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Lets every operator of the Hyena mixers count its calls, under its own name."""
    calls: Counter[str] = Counter()

    def counting(name, operator):
        def call(*arguments, **options):
            calls[name] += 1
            return operator(*arguments, **options)

        return call

    for module, names in WHERE.items():
        for name in names:
            monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return calls
