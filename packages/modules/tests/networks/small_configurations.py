"""Every mixer, configured small, by the number of axes that it works over; what the tests of networks share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from subquad.lazy_config import Config, LazyConfig
from subquad.modules import (
    MLP,
    Attention,
    CKConv,
    GaussianModulation,
    Hyena,
    HyenaLong,
    HyenaMedium,
    HyenaShort,
    Mamba,
    MultiHeadAttention,
    QKVSequenceMixer,
    ResidualBlock,
    RMSNorm,
    ShortConvolution,
    SIRENFilter,
    StateSpace,
)

WIDTH = 24
NORM = LazyConfig(RMSNorm)(channels=WIDTH)
MLP_CFG = LazyConfig(MLP)(channels=WIDTH)


def ckconv(data_dim: int = 2, size: int = 8) -> Config[CKConv]:
    return LazyConfig(CKConv)(
        channels=WIDTH,
        data_dim=data_dim,
        trained_size=size,
        filter_cfg=LazyConfig(SIRENFilter)(hidden_dim=8),
        modulation_cfg=LazyConfig(GaussianModulation)(),
    )


def hyena(data_dim: int = 2, size: int = 8) -> Config[Hyena]:
    return LazyConfig(Hyena)(
        channels=WIDTH,
        global_conv_cfg=ckconv(data_dim, size),
        short_conv_cfg=LazyConfig(ShortConvolution)(data_dim=data_dim),
    )


def attention(data_dim: int = 2) -> Config[MultiHeadAttention]:
    return LazyConfig(MultiHeadAttention)(channels=WIDTH, num_heads=2, data_dim=data_dim)


SEQUENCE_MIXERS: dict[type[nn.Module], Config[nn.Module]] = {
    HyenaShort: LazyConfig(HyenaShort)(channels=WIDTH, groups=4, projection_filter_length=3),
    HyenaMedium: LazyConfig(HyenaMedium)(channels=WIDTH, groups=4),
    HyenaLong: LazyConfig(HyenaLong)(channels=WIDTH, projection_filter_length=3, filter_parameters="p_gamma"),
    Attention: LazyConfig(Attention)(channels=WIDTH, num_heads=2),
}
GRID_MIXERS: dict[type[nn.Module], Callable[[int], Config[Any]]] = {
    MultiHeadAttention: attention,
    CKConv: ckconv,
    Hyena: hyena,
    StateSpace: lambda data_dim: LazyConfig(StateSpace)(channels=WIDTH, data_dim=data_dim, state_size=4),
    Mamba: lambda data_dim: LazyConfig(Mamba)(channels=WIDTH, data_dim=data_dim, scan_order="axes", state_size=4),
}


def block(mixer: Config[Any], **options: Any) -> Config[ResidualBlock]:
    return LazyConfig(ResidualBlock)(
        sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(hidden_dim=WIDTH, mixer_cfg=mixer),
        norm_cfg=NORM,
        mlp_cfg=MLP_CFG,
        **options,
    )


_SHARE = 0.7  # of the first loss


def bars(count: int, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns noisy gratings ``[count, size, size, 1]`` and which way their bars run, 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    phase = torch.rand(count, 1, 1, generator=generator) * 6.28
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    at = torch.where(labels.view(-1, 1, 1) == 0, row, column)
    images = torch.sin(at * 1.2 + phase) + 0.3 * torch.randn(count, size, size, generator=generator)
    return images.unsqueeze(-1), labels


def losses(model: nn.Module, loss: Callable[[], Tensor], steps: int = 50, rate: float = 3e-3) -> list[float]:
    """Trains for some steps, or until assert_falls holds, and returns the loss before each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        history.append(float(value.detach()))
        if _has_fallen(history):
            break
    return history


def _has_fallen(history: list[float], share: float = _SHARE) -> bool:
    return len(history) > 5 and sum(history[-5:]) / 5 < share * history[0]


def assert_falls(history: list[float], share: float = _SHARE) -> None:
    """Asserts that the mean of the last five losses is below a share of the first."""
    last = sum(history[-5:]) / 5
    assert _has_fallen(history, share), f"the loss went from {history[0]:.3f} to {last:.3f} in {len(history)} steps"
