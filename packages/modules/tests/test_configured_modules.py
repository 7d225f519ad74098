"""Configurations of modules: lists are built, plain texts stay texts, and a swap of mixers is one line."""

import pytest
from torch import nn

from packages.modules.tests.mixer_table import CASES, CHANNELS, Case
from subquad.lazy_config import (
    PLACEHOLDER,
    LazyConfig,
    MissingFieldError,
    apply_overrides,
    diff,
    from_yaml,
    instantiate,
)
from subquad.lazy_config import to_yaml as written
from subquad.modules import QKVSequenceMixer, ResidualBlock, RMSNorm, StateSpace


class Stack(nn.Module):
    """Blocks, one after the other, and a note."""

    def __init__(self, blocks: list[nn.Module], named: dict[str, nn.Module], note: str) -> None:
        super().__init__()
        self.blocks, self.named, self.note = nn.ModuleList(blocks), nn.ModuleDict(named), note


def block(case: Case) -> object:
    return LazyConfig(ResidualBlock)(
        sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(hidden_dim=CHANNELS, mixer_cfg=case.config),
        norm_cfg=LazyConfig(RMSNorm)(channels=CHANNELS),
    )


def test_lists_and_dicts_of_modules_are_built_and_a_date_stays_a_text() -> None:
    linear = LazyConfig(nn.Linear)(in_features=4, out_features="2 * in_features")
    stack = instantiate(LazyConfig(Stack)(blocks=[linear, linear], named={"last": linear}, note="2024-10-12"))
    assert [type(layer) for layer in stack.blocks] == [nn.Linear, nn.Linear]
    assert stack.blocks[0] is not stack.blocks[1]
    assert stack.named["last"].out_features == 8
    assert stack.note == "2024-10-12"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_swapping_a_mixer_changes_its_own_line_and_its_arguments_alone(case: Case) -> None:
    before, after = block(Case("before", StateSpace, {})), block(case)
    swap, *arguments = str(diff(before, after)).splitlines() or [""]
    if case.kind is not StateSpace:
        assert swap == f"@ sequence_mixer_cfg.mixer_cfg: StateSpace -> {case.kind.__name__}"
        assert not any(line.startswith(("@", "~", "-")) for line in arguments)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_mixer_survives_yaml_and_overrides(case: Case) -> None:
    config = block(case)
    again = from_yaml(written(config), allowed=("subquad", "torch.nn"))
    assert again == config
    wider = apply_overrides(again, ["sequence_mixer_cfg.qkv_bias=true"])
    assert instantiate(wider).sequence_mixer.qkv_proj.bias is not None


def test_a_required_field_left_open_is_named_before_anything_is_built() -> None:
    config = LazyConfig(Stack)(blocks=[LazyConfig(StateSpace)(channels=PLACEHOLDER)], named={}, note="")
    with pytest.raises(MissingFieldError, match=r"blocks\[0\]\.channels"):
        instantiate(config)
