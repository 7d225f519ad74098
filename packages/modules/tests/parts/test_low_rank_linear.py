"""Tests of linear layers with a trained correction of low rank."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from packages.modules.tests.support import lively_model, random_ids
from subquad.modules import (
    ConfigurationError,
    LowRankLinear,
    StripedHyena2,
    adapt_linears,
    merge_low_rank,
    round_linears,
)
from tools.testing.oracle import assert_close, assert_matches_oracle, relative_error

PATTERN = "SDH*"
TARGETS = ("projections", "out_filter_dense", "Wqkv", "out_proj", "l1", "l2", "l3")
LINEARS = [name for name, module in lively_model(pattern=PATTERN).named_modules() if isinstance(module, nn.Linear)]


def draw(network: nn.Module) -> None:
    """Gives every correction of a network a size that matters."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, LowRankLinear):
            layer.up.data.copy_(torch.randn(layer.up.shape, generator=generator) * 0.3)


def forward(model: StripedHyena2, ids: Tensor) -> Tensor:
    return model(ids)


def read(model: StripedHyena2, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(ids)


def stepped(model: StripedHyena2, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        state = model.init_state(len(ids), max_length=ids.shape[1])
        model.encode_last(ids[:, :-3], state)
        return torch.stack([model.step(token, state) for token in ids[:, -3:].unbind(1)], 1)


def prepared(model: StripedHyena2, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        state = model.init_state(len(ids), max_length=ids.shape[1])
        step = model.prepare_step(state)
        return torch.stack([step(token) for token in ids[:, -9:].unbind(1)], 1)


PATHS = (forward, read, stepped, prepared)


@pytest.mark.parametrize("bias", [False, True])
def test_it_computes_the_sum_of_layer_and_correction(bias: bool) -> None:
    torch.manual_seed(0)
    layer = LowRankLinear(nn.Linear(12, 7, bias=bias), rank=3, alpha=6.0)
    draw(layer)
    whole = layer.weight.detach().double()

    def reference(x: Tensor) -> Tensor:
        return nn.functional.linear(x, whole.to(x), None if layer.bias is None else layer.bias.to(x))

    assert_matches_oracle(layer, reference, torch.randn(2, 5, 12))
    want = layer.linear.weight + 2.0 * layer.up @ layer.down
    assert_close(layer.weight, want, 1e-6)


def test_dropout_is_that_of_the_input_of_the_correction_and_of_training_alone() -> None:
    torch.manual_seed(0)
    layer = LowRankLinear(nn.Linear(64, 8), rank=2, alpha=2.0, dropout=0.5)
    draw(layer)
    x = torch.randn(500, 64)
    still = layer.eval()(x)
    assert torch.equal(layer(x), still)
    assert_close(layer.linear(x) + x @ layer.down.T @ layer.up.T, still, 1e-6)
    layer.train()
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    dropped = layer(x)
    torch.manual_seed(3)
    kept = nn.functional.dropout(x, 0.5)
    assert_close(dropped, layer.linear(x) + kept @ layer.down.T @ layer.up.T, 1e-6)


def test_a_new_correction_changes_nothing_and_every_linear_of_the_network_has_one() -> None:
    model = lively_model(pattern=PATTERN)
    ids = random_ids(2, 70)
    before = model(ids)
    assert adapt_linears(model, TARGETS, rank=2, alpha=4.0) != []
    assert not any(module.training for module in model.modules())
    assert sorted(n for n, m in model.named_modules() if isinstance(m, LowRankLinear)) == sorted(LINEARS)
    assert_close(model(ids), before, 1e-12)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("length", [20, 70])  # below and above the length from which products choose their layout
def test_every_correction_reaches_the_output_by_every_path(
    name: str, length: int, path: Callable[[StripedHyena2, Tensor], Tensor]
) -> None:
    base = lively_model(pattern=PATTERN)
    model = copy.deepcopy(base)
    assert adapt_linears(model, [name], rank=2, alpha=4.0) == [name]
    draw(model)
    ids = random_ids(2, length)
    out, before = path(model, ids), path(base, ids)
    assert relative_error(out, before) > 1e-3
    merged = copy.deepcopy(model)
    assert merge_low_rank(merged) == 1
    assert_close(out, path(merged, ids), 1e-12)


@pytest.mark.parametrize("rows", [1, 2])  # a step of one row and of several round in ways of their own
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_a_merged_network_is_the_adapted_one_with_the_parts_it_had_before(
    path: Callable[[StripedHyena2, Tensor], Tensor], rows: int
) -> None:
    model = lively_model(pattern=PATTERN, dtype=torch.float32)
    before = {name: type(module) for name, module in model.named_modules()}
    ids = random_ids(rows, 70)
    adapt_linears(model, TARGETS, rank=2, alpha=4.0)
    draw(model)
    merged = copy.deepcopy(model)
    assert merge_low_rank(merged) == len(LINEARS)
    assert {name: type(module) for name, module in merged.named_modules()} == before
    if path is not forward:
        assert torch.equal(path(model, ids), path(merged, ids))
    plain = relative_error(path(merged, ids), path(copy.deepcopy(merged).double(), ids))
    assert_close(path(model.train(), ids), path(merged, ids), 4 * plain)  # two products are rounded apart from one
    assert merge_low_rank(merged) == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_corrections_alone(checkpointing: bool) -> None:
    model = lively_model(pattern=PATTERN, gradient_checkpointing=checkpointing).train()
    adapt_linears(model, TARGETS, rank=2, alpha=4.0)
    draw(model)
    ids = random_ids(2, 70)
    model(ids).square().mean().backward()
    found = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found == {f"{name}.{part}" for name in LINEARS for part in ("down", "up")}
    plain = copy.deepcopy(model)
    plain.zero_grad()
    merge_low_rank(plain)
    plain.requires_grad_(True)
    plain(ids).square().mean().backward()
    for name in LINEARS:  # by the rule of the product
        layer, whole = model.get_submodule(name), plain.get_submodule(name)
        assert isinstance(layer, LowRankLinear)
        assert_close(layer.up.grad, 2.0 * whole.weight.grad @ layer.down.T, 1e-10)
        assert_close(layer.down.grad, 2.0 * layer.up.T @ whole.weight.grad, 1e-10)


def test_a_layer_under_two_names_has_one_correction_and_rounding_leaves_it() -> None:
    shared = nn.Linear(4, 4)
    network = nn.Sequential(shared, nn.Sequential(shared))
    assert adapt_linears(network, ["0"], rank=1, alpha=1.0) == ["0", "1.0"]
    draw(network)
    assert network[0] is network[1][0]
    out = network(torch.ones(1, 4))
    rounded = copy.deepcopy(network)
    round_linears(rounded)
    assert relative_error(rounded(torch.ones(1, 4)), out) < 0.1
    with pytest.raises(ConfigurationError, match="became a RoundedLinear; accepted is to merge before"):
        merge_low_rank(rounded)
    assert merge_low_rank(network) == 2
    assert network[0] is shared is network[1][0]
    assert_close(network(torch.ones(1, 4)), out, 1e-6)


def test_a_seed_draws_the_same_correction() -> None:
    def drawn(seed: int) -> Tensor:
        linear = nn.Linear(100, 4, bias=False)
        return LowRankLinear(linear, rank=3, alpha=1.0, generator=torch.Generator().manual_seed(seed)).down

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert 0.09 < drawn(0).abs().max() < 0.1


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (
            ["l4"],
            {},
            r"target 'l4' names no module; accepted are l1, l2, l3, projections, out_filter_dense, W",
        ),
        ([""], {}, r"target '' names no module"),
        (["l1", "mlp"], {}, r"target 'mlp': blocks\.0\.mlp is GatedMLP; accepted is nn\.Linear itself"),
        (["projections"], {"fp8_projections": True}, r"blocks\.0\.projections is FP8Linear; accepted is nn\.Linear"),
    ],
)
def test_a_target_that_is_no_plain_linear_is_refused_and_changes_nothing(
    targets: list[str], options: dict[str, bool], message: str
) -> None:
    model = lively_model(pattern=PATTERN, dtype=torch.float32, **options)
    with pytest.raises(ConfigurationError, match=message):
        adapt_linears(model, targets, rank=2, alpha=4.0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_weight_that_is_shared_with_another_module_is_refused() -> None:
    network = nn.ModuleDict({"embedding": nn.Embedding(6, 4), "head": nn.Linear(4, 6)})
    network["head"].weight = network["embedding"].weight
    with pytest.raises(ConfigurationError, match="head shares its weight with another module"):
        adapt_linears(network, ["head"], rank=1, alpha=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0; accepted are integers of 1 and more"),
        ({"alpha": 0.0}, "alpha is 0.0 and dropout 0.0; accepted are a finite alpha above 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "and dropout 1.0; accepted are .* a dropout from 0 to below 1"),
    ],
)
def test_numbers_outside_their_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LowRankLinear(nn.Linear(4, 4), **{"rank": 1, "alpha": 1.0, **options})  # type: ignore[arg-type]
