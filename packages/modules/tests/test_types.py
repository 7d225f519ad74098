"""Inputs of a wrong type, for every module: refused by an error of ours that names them, before any work."""

from array import array
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from packages.modules.tests.mixer_table import CASES, CAUSAL, CHANNELS, Case
from packages.modules.tests.network_table import GRIDS_OF, MLP_CFG, NORM, mixing
from packages.modules.tests.support import TINY
from subquad.modules import (
    MLP,
    AdaLNZeroBlock,
    AxialRotaryEmbedding,
    DropPath,
    FilterFiLM,
    GatedMLP,
    InputMismatch,
    L2Norm,
    LayerScale,
    ResidualBlock,
    RMSNorm,
    RotaryEmbedding,
    SinusoidalEmbedding,
    StripedHyena2,
)
from subquad.ops import OpsError


@pytest.fixture(autouse=True)
def without_the_checker_of_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own errors meet what the checker would."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class NoWork(TorchDispatchMode):
    """Fails at the first operation that makes numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(value.alias_info is None and str(value.type) == "Tensor" for value in func._schema.returns):
            raise AssertionError(f"{func} ran before the input was refused")
        return func(*args, **(kwargs or {}))


FAULTS: dict[str, Callable[[Tensor], object]] = {
    "list": lambda t: t.tolist(),
    "array": lambda t: array("d", t.flatten().tolist()),
    "NoneType": lambda t: None,
    "numbers": lambda t: t.long() if t.is_floating_point() else t.float(),
    "complex64": lambda t: t.to(torch.complex64),
    "sparse": lambda t: t.to_sparse(),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "nested, jagged": lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged),
    "qint8": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
}


def check(call: Callable[..., object], inputs: dict[str, Tensor], name_of: Callable[[str], str] = lambda n: n) -> None:
    """Spoils one input after the other; each must be refused by its name."""
    for name, value in inputs.items():
        for fault, spoil in FAULTS.items():
            spoiled = {**inputs, name: spoil(value)}
            with pytest.raises((InputMismatch, OpsError)) as raised, NoWork():
                call(**spoiled)
            assert name_of(name) in str(raised.value), f"{name}, {fault}: {raised.value}"
            assert not isinstance(raised.value, OpsError) or "is " in str(raised.value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mixer_refuses_streams_that_are_no_dense_floats(case: Case) -> None:
    mixer = case.make()
    streams = dict(zip("qkv", case.streams(mixer), strict=True))
    unread = {name: x for name, x in streams.items() if x.shape[-1] == 0}  # a convolution does not look at q and k
    check(lambda **given: mixer(**unread, **given), {n: x for n, x in streams.items() if n not in unread})


@pytest.mark.parametrize("case", CAUSAL, ids=lambda case: case.name)
def test_a_step_refuses_streams_that_are_no_dense_floats(case: Case) -> None:
    mixer = case.make()
    streams = {name: x[:, 0] for name, x in zip("qkv", case.streams(mixer, length=4), strict=True)}
    unread = {name: x for name, x in streams.items() if x.shape[-1] == 0}
    state = mixer.init_state(2, max_length=4)
    check(
        lambda **given: mixer.step(**unread, **given, state=state),
        {n: x for n, x in streams.items() if n not in unread},
    )


@pytest.mark.parametrize("case", CAUSAL, ids=lambda case: case.name)
def test_a_step_refuses_an_active_that_is_no_bool_of_every_row(case: Case) -> None:
    mixer = case.make()
    qkv = [x[:, 0] for x in case.streams(mixer, length=4)]
    state, active = mixer.init_state(2, max_length=4), torch.tensor([True, False])
    for bad in ([True, False], active.float(), array("b", active.tolist()), active[:1], active.to_sparse()):
        with pytest.raises((InputMismatch, OpsError), match="active"):
            mixer.step(*qkv, state, active=bad)


@pytest.mark.parametrize("name", GRIDS_OF)
def test_networks_and_parts_of_grids_refuse_what_are_no_dense_floats(name: str) -> None:
    kind, options, space = GRIDS_OF[name]
    check(kind(**options), {"x": torch.randn(2, *space, 3)}, lambda _: "the input")


X = torch.randn(2, 6, CHANNELS)
HEADS, AT = torch.randn(2, 5, 4, 8), torch.arange(5)[None]
PARTS: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {
    "RMSNorm": (RMSNorm(CHANNELS), {"x": X}),
    "L2Norm": (L2Norm(), {"x": X}),
    "GatedMLP": (GatedMLP(CHANNELS, inner_size=8, activation="gelu"), {"x": X}),
    "DropPath": (DropPath(0.5), {"x": X}),
    "RotaryEmbedding": (RotaryEmbedding(8), {"x": HEADS, "position": AT}),
    "AxialRotaryEmbedding": (AxialRotaryEmbedding(8), {"x": HEADS, "positions": AT[:, :, None]}),
    "ResidualBlock": (ResidualBlock(mixing(CASES[0]), NORM, mlp_cfg=MLP_CFG), {"x": X}),
    "QKVSequenceMixer": (ResidualBlock(mixing(CASES[0]), NORM).sequence_mixer, {"x": X}),
}
NAMED_INPUTS: dict[str, tuple[nn.Module, Tensor, str]] = {
    "MLP": (MLP(CHANNELS), X, "the input"),
    "LayerScale": (LayerScale(CHANNELS), X, "the input"),
    "SinusoidalEmbedding": (SinusoidalEmbedding(CHANNELS), X, "the input"),
    "FilterFiLM": (FilterFiLM(6, hidden_dim=8, num_layers=2), torch.randn(2, 6), "the condition"),
    "StripedHyena2": (StripedHyena2(**{**TINY, "pattern": "S"}), torch.zeros(2, 5, dtype=torch.int64), "ids"),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_and_blocks_refuse_what_are_no_dense_tensors(name: str) -> None:
    module, inputs = PARTS[name]
    module(**inputs)
    check(module, inputs)


@pytest.mark.parametrize("name", NAMED_INPUTS)
def test_parts_name_their_only_input(name: str) -> None:
    module, value, text = NAMED_INPUTS[name]
    module(value)
    check(lambda value: module(value), {"value": value}, lambda _: text)


def test_a_steered_block_refuses_a_condition_that_is_no_dense_floats() -> None:
    block = AdaLNZeroBlock(CHANNELS, mixing(CASES[0]), NORM, MLP_CFG, condition_dim=5)
    check(block, {"x": X, "condition": torch.randn(2, 5)})
