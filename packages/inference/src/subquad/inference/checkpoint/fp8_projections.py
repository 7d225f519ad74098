"""What becomes of the scales of FP8 projections when a checkpoint changes its format."""

import io
from dataclasses import replace

from subquad.inference.checkpoint.fp8_option import plain_config
from subquad.inference.checkpoint.fp8_scales import Fp8Scales, extra_state
from subquad.inference.checkpoint.report import SAME, MappedTensor, joined
from subquad.inference.checkpoint.source import TensorSource

_INPUT, _WEIGHT = ".fp8.input_scale", ".fp8.weight_scale"


def is_scale(name: str) -> bool:
    """Says whether a native tensor is a scale of an FP8 projection."""
    return name.endswith((_INPUT, _WEIGHT))


def without_scales(source: TensorSource) -> TensorSource:
    """Makes plain projections of FP8 ones; the weights are the same."""
    if not source.network.fp8_projections:
        return source
    entries = {name: entry for name, entry in source.entries.items() if not is_scale(name)}
    left = [MappedTensor(name, None, "left out: FP8 scales") for name in source.entries if is_scale(name)]
    report = joined(source.report, [*(MappedTensor(name, name, SAME) for name in entries), *left])
    return replace(source, config=plain_config(source.config), entries=entries, report=report)


def extra_states(source: TensorSource) -> dict[str, io.BytesIO]:
    """Returns the state that TransformerEngine reads for every FP8 projection, by the projection's native name."""
    states = {}
    for name in source.entries:
        if name.endswith(_INPUT):
            projection = name.removesuffix(_INPUT)
            input_scale, weight_scale = (source.entries[projection + end].produce() for end in (_INPUT, _WEIGHT))
            states[projection] = extra_state(Fp8Scales(input_scale, weight_scale))
    return states
