"""Which parameters weight decay leaves alone."""

import torch

from packages.modules.tests.support import TINY
from subquad.modules import StripedHyena2, parameter_groups, parameter_tags


def test_weight_decay_spares_biases_norms_filters_and_short_convolutions() -> None:
    tags = parameter_tags(StripedHyena2(**TINY, filter_parameters="p_gamma"))
    decayed = {name.split(".", 2)[-1] for name, tag in tags.items() if tag.weight_decay and name.startswith("blocks.")}
    assert decayed == {
        "projections.weight",
        "out_filter_dense.weight",
        "inner_mha_cls.Wqkv.weight",
        "inner_mha_cls.out_proj.weight",
        "mlp.l1.weight",
        "mlp.l2.weight",
        "mlp.l3.weight",
        "filter.taps",
    }
    assert {name for name, tag in tags.items() if name.endswith("filter.taps") and tag.weight_decay} == {
        "blocks.1.filter.taps",
        "blocks.5.filter.taps",
    }
    assert tags["embedding_layer.weight"].weight_decay
    assert not tags["norm.scale"].weight_decay


def test_groups_hold_every_trainable_parameter_once() -> None:
    model = StripedHyena2(**TINY)
    model.norm.scale.requires_grad_(False)
    model.blocks[0].learning_rate_scales = {}
    model.blocks[2].filter.learning_rate_scales = {"log_poles": 0.1}
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.01)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    slow = [group for group in groups if group["lr"] < 1e-3]
    assert len(slow) == 1
    assert slow[0]["lr"] == 1e-4
    assert slow[0]["weight_decay"] == 0.0
    torch.optim.AdamW(groups)
