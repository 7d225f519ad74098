"""Every mixer of the table in every block, by a change of one line of the configuration."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from packages.modules.tests.mixer_table import BATCH, CASES, CAUSAL, CHANNELS, Case
from subquad.lazy_config import LazyConfig, instantiate
from subquad.modules import (
    MLP,
    AdaLNZeroBlock,
    CKConv,
    GatedMLP,
    QKVConditionMixer,
    QKVSequenceMixer,
    ResidualBlock,
    RMSNorm,
    StateUnsupported,
)
from tools.testing.oracle import assert_close

NORM = LazyConfig(RMSNorm)(channels=CHANNELS)


def plain(case: Case) -> Any:
    return LazyConfig(ResidualBlock)(
        sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(hidden_dim=CHANNELS, mixer_cfg=case.config),
        norm_cfg=NORM,
        mlp_cfg=LazyConfig(GatedMLP)(channels=CHANNELS, inner_size=24, activation="gelu"),
    )


def without_mlp(case: Case) -> Any:
    block = plain(case)
    block.mlp_cfg = None
    return block


def vision(case: Case) -> Any:
    block = plain(case)
    block.layer_scale, block.drop_path = 0.5, 0.2
    return block


def conditioned(case: Case) -> Any:
    return LazyConfig(AdaLNZeroBlock)(
        hidden_dim=CHANNELS,
        sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(hidden_dim=CHANNELS, mixer_cfg=case.config),
        norm_cfg=NORM,
        mlp_cfg=LazyConfig(MLP)(channels=CHANNELS),
        condition_dim=5,
    )


BLOCKS = (plain, without_mlp, vision, conditioned)
every_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)


def make(case: Case, block: Callable[[Case], Any], dtype: torch.dtype) -> tuple[Any, tuple[Tensor, ...]]:
    """Makes a block in eval mode, and what it takes behind its input."""
    torch.manual_seed(0)
    model = instantiate(block(case)).to(dtype).eval()
    if block is conditioned:
        model.condition_proj.weight.data.normal_(0, 0.2)
    return model, (torch.randn(BATCH, 5, dtype=dtype),) if block is conditioned else ()


@every_block
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_keeps_the_shape_and_a_gradient_reaches_every_parameter(case: Case, block: Callable[[Case], Any]) -> None:
    model, given = make(case, block, torch.float32)
    x = torch.randn(BATCH, *((20,) if case.causal else case.space), CHANNELS, requires_grad=True)
    y = model(x, *given)
    assert y.shape == x.shape
    y.square().sum().backward()
    for name, tensor in (("x", x), *model.named_parameters()):
        assert tensor.grad is not None, name
        assert torch.isfinite(tensor.grad).all(), name
    if not case.causal:
        with pytest.raises(StateUnsupported, match=f"{case.kind.__name__} cannot continue"):
            model.init_state(BATCH, max_length=3)


@every_block
@pytest.mark.parametrize("case", CAUSAL, ids=lambda case: case.name)
def test_chunks_and_steps_equal_the_whole(case: Case, block: Callable[[Case], Any]) -> None:
    model, given = make(case, block, torch.float64)
    x = torch.randn(BATCH, 40, CHANNELS, dtype=torch.float64)
    state = model.init_state(BATCH, max_length=40)
    pieces = []
    with torch.inference_mode():
        for part in x.split([1, 20, 1, 1, 17], dim=1):
            if part.shape[1] == 1:
                pieces.append(model.step(part[:, 0], *given, state).unsqueeze(1))
            else:
                pieces.append(model(part, *given, state))
            state.advance(part.shape[1])
        assert_close(torch.cat(pieces, 1), model(x, *given), relative=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case.kind is not CKConv], ids=lambda case: case.name)
@pytest.mark.parametrize("over_points", [False, True])
def test_a_condition_is_mixed_in_by_every_mixer_that_takes_queries(case: Case, over_points: bool) -> None:
    torch.manual_seed(0)
    cfg = plain(case)
    cfg.condition_mixer_cfg = LazyConfig(QKVConditionMixer)(hidden_dim=CHANNELS, mixer_cfg=case.config, condition_dim=5)
    model, space = instantiate(cfg), (20,) if case.causal else case.space
    x = torch.randn(BATCH, *space, CHANNELS)
    condition = torch.randn(BATCH, *(space if over_points else ()), 5, requires_grad=True)
    y = model(x, condition=condition)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert condition.grad is not None
    assert torch.isfinite(condition.grad).all()
    assert float(condition.grad.abs().sum(-1).min()) > 0
    for name, parameter in model.condition_mixer.named_parameters():
        if not name.endswith("projection_taps"):  # the short convolution is that of a sequence's own projection
            assert parameter.grad is not None, name


def noting(run: Callable[..., Any], called: list[str], name: str, *given: Any, **named: Any) -> Any:
    called.append(name)
    return run(*given, **named)


@pytest.mark.parametrize("case", [case for case in CASES if case.fused], ids=lambda case: case.name)
def test_a_block_prefers_the_fused_form(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the mixer owns the short convolution in front of it; without one it is given q, k and v."""
    short = {"projection_filter_length": None}
    forms = (case, Case(case.name, case.kind, {**case.options, **short}, causal=True))
    for form, expected in zip(forms, ("forward_projected", "forward"), strict=True):
        model = instantiate(plain(form))
        called: list[str] = []
        for name in ("forward", "forward_projected"):
            run = getattr(model.sequence_mixer.mixer, name)

            noted = functools.partial(noting, run, called, name)
            monkeypatch.setattr(model.sequence_mixer.mixer, name, noted)
        x, state = torch.randn(BATCH, 20, CHANNELS), model.init_state(BATCH, max_length=20)
        model(x)
        model(x, state)
        assert called == [expected] * 2
