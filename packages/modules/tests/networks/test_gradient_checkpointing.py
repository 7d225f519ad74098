"""Gradient checkpointing: the same gradients to the bit, and less memory, measured."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from packages.modules.tests.networks.small_configurations import NORM, SEQUENCE_MIXERS, WIDTH, attention, block, hyena
from subquad.lazy_config import Config, LazyConfig, instantiate
from subquad.modules import (
    MLP,
    BlockStack,
    ConfigurationError,
    HierarchicalViT,
    QKVConditionMixer,
    ResidualNetwork,
    RMSNorm,
    StripedHyena2,
    UNetConvNeXt,
    ViT5,
)

PARTS: dict[str, Any] = {"norm_cfg": LazyConfig(RMSNorm)(), "mlp_cfg": LazyConfig(MLP)()}
IMAGE = (2, 16, 16, 1)
NETWORKS: dict[str, tuple[Config[Any], tuple[int, ...]]] = {
    "residual": (
        LazyConfig(ResidualNetwork)(
            in_proj_cfg=LazyConfig(nn.Linear)(in_features=1, out_features=WIDTH),
            block_cfg=block(hyena(1, 64), dropout=0.2, drop_path=0.2),
            out_proj_cfg=LazyConfig(nn.Linear)(in_features=WIDTH, out_features=1),
            num_blocks=4,
            norm_cfg=NORM,
        ),
        (2, 64, 1),
    ),
    "vit": (
        LazyConfig(ViT5)(
            in_channels=1, num_classes=2, hidden_dim=WIDTH, pattern="AAAA", mixer_cfg={"A": attention(1)},
            image_size=16, patch_size=2, drop_path=0.3, **PARTS,
        ),
        IMAGE,
    ),
    "pyramid": (
        LazyConfig(HierarchicalViT)(
            in_channels=1, num_classes=2, widths=(WIDTH, 2 * WIDTH), patterns=("HH", "AA"),
            mixer_cfg={"H": hyena(2), "A": attention(2)}, patch_size=2, **PARTS,
        ),
        IMAGE,
    ),
    "unet": (
        LazyConfig(UNetConvNeXt)(
            in_channels=1, out_channels=1, stages=2, init_features=8, filter_size=3, blocks_per_stage=3
        ),
        IMAGE,
    ),
    "striped_hyena2": (
        LazyConfig(StripedHyena2)(
            pattern="SDH*SDH*", hidden_size=WIDTH, num_heads=2, inner_size=2 * WIDTH, filter_groups=4, vocab_size=64
        ),
        (2, 96),
    ),
}  # fmt: skip
every_network = pytest.mark.parametrize("name", NETWORKS)


def build(name: str, *, gradient_checkpointing: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    cfg, shape = NETWORKS[name]
    model = instantiate(cfg, gradient_checkpointing=gradient_checkpointing)
    return model, torch.randint(64, shape) if isinstance(model, StripedHyena2) else torch.randn(shape)


def gradients(name: str, *, gradient_checkpointing: bool) -> dict[str, Tensor]:
    model, x = build(name, gradient_checkpointing=gradient_checkpointing)
    torch.manual_seed(1)  # the same dropout in both
    model(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def saved_bytes(name: str, *, gradient_checkpointing: bool) -> int:
    """Returns the bytes of storage, parameters left out, that the forward pass keeps for backward."""
    model, x = build(name, gradient_checkpointing=gradient_checkpointing)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(kept.values())


@every_network
def test_gradients_are_the_same_to_the_bit(name: str) -> None:
    plain, again = (gradients(name, gradient_checkpointing=flag) for flag in (False, True))
    assert set(plain) == set(again)
    assert len(plain) > 10
    assert all(torch.equal(plain[key], again[key]) for key in plain)


@every_network
def test_less_is_kept_for_backward(name: str) -> None:
    plain, again = (saved_bytes(name, gradient_checkpointing=flag) for flag in (False, True))
    assert again < 0.5 * plain, f"{again} of {plain} bytes"


class Allocations(TorchDispatchMode):
    """Follows the bytes of all storages that operations make, and the greatest sum of those alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.follow(tensor.untyped_storage())
        return result

    def follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.total += storage.nbytes()
            self.peak = max(self.peak, self.total)
            weakref.finalize(storage, self.drop, key)

    def drop(self, key: int) -> None:
        self.total -= self.alive.pop(key)


def peak_bytes(name: str, *, gradient_checkpointing: bool) -> int:
    """Returns the most bytes that a forward and a backward pass hold at a time, parameters and gradients left out."""
    model, x = build(name, gradient_checkpointing=gradient_checkpointing)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with Allocations() as allocations:
        model(x).square().sum().backward()
    return allocations.peak


@every_network
def test_the_peak_of_a_training_step_is_lower(name: str) -> None:
    plain, again = (peak_bytes(name, gradient_checkpointing=flag) for flag in (False, True))
    assert again < 0.7 * plain, f"{again} of {plain} bytes"


@every_network
@pytest.mark.gpu
def test_the_peak_on_a_gpu_is_lower(name: str) -> None:
    peaks = []
    for flag in (False, True):
        model, x = build(name, gradient_checkpointing=flag)
        model, x = model.cuda(), torch.cat([x] * 16).cuda()
        model(x).square().sum().backward()  # workspaces are allocated once
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(x).square().sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 0.7 * peaks[0], f"{peaks[1]} of {peaks[0]} bytes"


def test_conditions_reach_blocks_that_are_computed_again() -> None:
    torch.manual_seed(0)
    cross = LazyConfig(QKVConditionMixer)(hidden_dim=WIDTH, mixer_cfg=next(iter(SEQUENCE_MIXERS.values())))
    cfg = LazyConfig(ResidualNetwork)(
        in_proj_cfg=LazyConfig(nn.Linear)(in_features=1, out_features=WIDTH),
        block_cfg=block(hyena(1), condition_mixer_cfg=cross),
        out_proj_cfg=LazyConfig(nn.Linear)(in_features=WIDTH, out_features=1),
        num_blocks=2,
    )
    model = instantiate(cfg)
    x, condition = torch.randn(2, 9, 1), torch.randn(2, WIDTH, requires_grad=True)
    found = []
    for flag in (False, True):
        model.stack.gradient_checkpointing = flag
        found.append(torch.autograd.grad(model(x, condition=condition).square().sum(), condition)[0])
    assert torch.equal(*found)
    assert float(found[0].abs().sum()) > 0


def test_a_stack_of_no_blocks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a stack of 0 blocks"):
        BlockStack([])
