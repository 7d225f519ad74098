"""Filters keep float32 in a 16-bit model and widen with a float64 one."""

import pytest
import torch

from packages.modules.tests.support import TINY
from subquad.modules import StripedHyena2

KEPT = {
    "poles": ("log_poles", "residues", "inv_freq"),
    "p_gamma": (".p", ".gamma", "residues", "inv_freq", "filter.decay", "blocks.1.filter.taps", "blocks.5.filter.taps"),
}


@pytest.mark.parametrize("form", ["poles", "p_gamma"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_or_a_constructor_leaves_filters_in_float32(form: str, dtype: torch.dtype) -> None:
    made, cast = (
        StripedHyena2(**TINY, filter_parameters=form, dtype=dtype),
        StripedHyena2(**TINY, filter_parameters=form),
    )
    before = {name: value.clone() for name, value in cast.state_dict().items()}
    for model in (made, cast.to(dtype)):
        for name, value in model.state_dict().items():
            assert value.dtype == (torch.float32 if name.endswith(KEPT[form]) else dtype), name
    for name, value in cast.state_dict().items():
        assert torch.equal(value, before[name].to(value.dtype)), name


def test_a_float64_model_is_float64_throughout_and_comes_back() -> None:
    for model in (StripedHyena2(**TINY).double(), StripedHyena2(**TINY, dtype=torch.float64)):
        assert {value.dtype for value in model.state_dict().values()} == {torch.float64}
    assert {value.dtype for value in model.float().state_dict().values()} == {torch.float32}


def test_modal_states_are_float32_in_a_16_bit_model() -> None:
    state = StripedHyena2(**TINY, dtype=torch.bfloat16).init_state(1, max_length=4)
    types = {name: value.dtype for layer in state.layers for name, value in layer.tensors().items()}
    assert types["modal"] == torch.float32
    assert {types[name] for name in ("projection", "taps", "keys", "values")} == {torch.bfloat16}
