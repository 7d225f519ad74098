"""Mamba against a loop over its equations, one token at a time, and its scans of grids against one another."""

from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from subquad.lazy_config import LazyConfig, instantiate
from subquad.modules import ConfigurationError, InputMismatch, Mamba, QKVSequenceMixer
from tools.testing.oracle import assert_close

VERSION_2: dict[str, Any] = {"version": 2, "head_size": 4, "num_groups": 2, "state_size": 3}


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    model = Mamba(8, **options).double()
    for name, parameter in model.named_parameters():
        if name.endswith(("conv.bias", "norm_scale")):
            parameter.data.normal_()
    return model


def streams(model: Any, *space: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, *space, width, generator=generator, dtype=torch.float64) for width in model.stream_channels]


def convolved(branch: Any, z: Tensor, t: int) -> Tensor:
    taps = branch.conv.taps
    past = range(min(t + 1, taps.shape[1]))
    return silu(sum((taps[:, k] * z[:, t - k] for k in past), branch.conv.bias))


def first_version(branch: Any, v: Tensor, t: int) -> tuple[Tensor, ...]:
    x = convolved(branch, v, t)
    step, into, out = (x @ branch.x_proj.weight.T).split([branch.step_rank, branch.state_size, branch.state_size], -1)
    step = softplus(step @ branch.step_proj.weight.T + branch.step_bias)
    return x, step, into[:, None], out[:, None], -branch.log_decay.exp(), branch.D


def second_version(branch: Any, v: Tensor, k: Tensor, t: int) -> tuple[Tensor, ...]:
    weights = 2 * branch.num_groups * branch.state_size
    z = convolved(branch, torch.cat([v, k[..., :weights]], -1), t)
    x, into, out = z.split([branch.channels, weights // 2, weights // 2], -1)
    step = softplus(k[:, t, weights:] + branch.step_bias)
    sets = [w.view(len(w), branch.num_groups, 1, -1).expand(-1, -1, branch.channels // 2, -1) for w in (into, out)]
    per_head = [value.repeat_interleave(branch.head_size, -1) for value in (step, branch.log_decay, branch.D)]
    decay = -per_head[1].exp()[:, None].expand(-1, branch.state_size)
    return x, per_head[0], sets[0].flatten(1, 2), sets[1].flatten(1, 2), decay, per_head[2]


@pytest.mark.parametrize("options", [{}, {"expansion": 1, "step_rank": 3, "state_size": 5}, VERSION_2])
def test_a_sequence_follows_the_recurrence(options: dict[str, Any]) -> None:
    model = make(**options)
    q, k, v = streams(model, 11)
    branch, state, outputs = model.scans[0], torch.zeros(()), []
    for t in range(11):
        made = second_version(branch, v, k, t) if options is VERSION_2 else first_version(branch, v, t)
        x, step, into, out, decay, skip = made
        state = torch.exp(step[..., None] * decay) * state + step[..., None] * into * x[..., None]
        y = ((out * state).sum(-1) + skip * x) * silu(q[:, t])
        if model.norm_scale is not None:
            groups = y.unflatten(-1, (2, -1))
            y = model.norm_scale * (groups / (groups.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(1)
        outputs.append(y)
    assert_close(model(q, k, v), torch.stack(outputs, 1), relative=1e-12)


@pytest.mark.parametrize("options", [{}, VERSION_2])
@pytest.mark.parametrize("order", ["raster", "axes"])
def test_a_grid_is_scanned_along_its_lines_in_both_directions(options: dict[str, Any], order: Any) -> None:
    model = make(data_dim=3, scan_order=order, bidirectional=True, **options)
    q, k, v = streams(model, 2, 3, 4)
    line = make(**options)
    orders = [(0, 1, 2)] if order == "raster" else [(1, 2, 0), (0, 2, 1), (0, 1, 2)]
    model.norm_scale = line.norm_scale = None
    total = torch.zeros_like(q)
    for index, (axes, backward) in enumerate((axes, backward) for axes in orders for backward in (False, True)):
        line.scans[0].load_state_dict(model.scans[index].state_dict())
        there = [0, *(axis + 1 for axis in axes), 4]
        lines = [x.permute(there).reshape(2, 24, -1) for x in (q, k, v)]
        y = line(*(x.flip(1) for x in lines)).flip(1) if backward else line(*lines)
        size = [(2, 3, 4)[axis] for axis in axes]
        total += y.view(2, *size, -1).permute([there.index(axis) for axis in range(5)])
    assert len(model.scans) == 2 * len(orders)
    assert_close(model(q, k, v), total, relative=1e-12)


def test_a_bidirectional_one_sees_both_sides_and_a_plain_one_only_the_past() -> None:
    for bidirectional in (False, True):
        model = make(bidirectional=bidirectional)
        q, k, v = streams(model, 9)
        changed = v.clone()
        changed[:, 5] += 1
        moved = (model(q, k, changed) - model(q, k, v)).abs().sum((0, 2)) > 0
        assert moved.tolist() == [bidirectional] * 5 + [True] * 4


def test_the_block_around_it_has_the_projections_of_mamba() -> None:
    for options, rows in (({}, 32), (VERSION_2, 32 + 2 * 2 * 3 + 4)):
        block = instantiate(
            LazyConfig(QKVSequenceMixer)(hidden_dim=8, mixer_cfg=LazyConfig(Mamba)(channels=8, **options))
        )
        assert block.qkv_proj.weight.shape == (rows, 8)
        assert block.out_proj.weight.shape == (8, 16)


def test_the_state_does_not_grow_with_the_length() -> None:
    model = make()
    assert model.init_state(2, max_length=10).nbytes == model.init_state(2, max_length=10_000).nbytes
    half = model.bfloat16().init_state(2)
    assert half.scan.dtype == torch.float32
    assert half.convolution.dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{}, VERSION_2, {"data_dim": 2, "bidirectional": True}])
def test_chunks_of_samples_change_neither_outputs_nor_gradients(options: dict[str, Any]) -> None:
    results = []
    for chunk_size in (None, 5):
        model = make(chunk_size=chunk_size, **options)
        inputs = [x.requires_grad_() for x in streams(model, *((17,) if model.data_dim == 1 else (4, 5)))]
        y = model(*inputs)
        given = [*(x for x in inputs if x.numel()), *model.parameters()]
        results.append([y, *torch.autograd.grad(y.square().sum(), given)])
    for chunked, whole in zip(*results, strict=True):
        assert_close(chunked, whole, relative=1e-11)


def test_step_sizes_and_decays_start_where_the_papers_say() -> None:
    first, second = (Mamba(256, **options).scans[0] for options in ({}, {"version": 2}))
    for branch in (first, second):
        step = softplus(branch.step_bias.detach())
        assert 1e-3 * (1 - 1e-4) <= float(step.min()) < float(step.max()) <= 0.1 * (1 + 1e-4)
    assert_close(first.log_decay.exp(), torch.arange(1.0, 17).expand(512, 16), relative=1e-6)
    decay = second.log_decay.detach().exp()
    assert 1 <= float(decay.min()) < float(decay.max()) <= 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 3}, "version is 3"),
        ({"scan_order": "hilbert"}, "scan_order 'hilbert'"),
        ({"data_dim": 4}, "data_dim 4"),
        ({"state_size": 0}, "state_size 0"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"version": 2, "head_size": 5}, "16 scanned channels, head_size 5"),
        ({"version": 2, "head_size": 4, "num_groups": 3}, "num_groups 3"),
    ],
)
def test_arguments_out_of_their_range_are_refused(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # our own error meets what the checker would
    with pytest.raises(ConfigurationError, match=message):
        Mamba(8, **options)


def test_another_number_of_axes_is_refused() -> None:
    model = make()
    with pytest.raises(InputMismatch, match=r"q has 2 axes of space, its shape is \(2, 3, 3, 16\); accepted are 1"):
        model(*streams(model, 3, 3))
