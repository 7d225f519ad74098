"""A vision transformer with class token and registers, whose layers take any mixer by a pattern of letters."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.lazy_config import Config, LazyConfig, derive, instantiate
from subquad.modules.blocks.residual import ResidualBlock
from subquad.modules.blocks.sequence_mixer import QKVSequenceMixer
from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.filters.positions import per_axis
from subquad.modules.networks.block_stack import BlockStack
from subquad.modules.parts.initialization import reset_constant, reset_truncated_normal
from subquad.modules.parts.patches import Patchify
from subquad.modules.widths import require_positive

Readout = Literal["class", "mean", "registers"]


class ViT5(nn.Module):
    """Classifies a grid: ``logits = head(readout(norm(blocks([patches, class token, registers]))))``.

    The blocks see one sequence of tokens. Mixers over a grid (Hyena and convolutions over two axes) go into a
    ``GridMixer``; attention and mixers of sequences are taken as they are. Layer ``i`` has the mixer that
    ``mixer_cfg[pattern[i]]`` describes, so that hybrids are a string: ``"HHHA" * 3``.

    Args:
      in_channels: Channels of the input.
      num_classes: Number of logits.
      hidden_dim: Channels of the residual stream, filled in for mixers, norms, MLPs and positions.
      pattern: One letter a layer.
      mixer_cfg: Configuration of the mixer that each letter stands for; each layer has weights of its own.
      norm_cfg: Configuration of a norm with an argument ``channels``.
      mlp_cfg: Configuration of a module with an argument ``channels`` that keeps the shape; None for blocks without.
      image_size: Points of the input along each axis, or along all.
      patch_size: Points of a patch along each axis, or along all; divides ``image_size``.
      data_dim: Axes of space, 1 to 3.
      num_registers: Learned tokens that hold nothing of the input.
      class_token: Whether there is a token that the read-out may look at.
      readout: ``"class"``: the class token; ``"mean"``: the mean of the patches; ``"registers"``: class token and
        registers, concatenated.
      position_cfg: Configuration of a module that adds positions to the patches; ``channels`` and ``data_dim`` are
        filled in. None for none.
      layer_scale: See ``ResidualBlock``.
      drop_path: Chance of the last layer that a branch is left out in training; it grows linearly from 0.
      gradient_checkpointing: See ``BlockStack``.

    Raises:
      ConfigurationError: A width is below 1, a letter has no mixer, patches do not fill the input, or the read-out has
        nothing to read.

    Source: Dosovitskiy et al., An image is worth 16x16 words, 2020; Darcet et al., Vision transformers need registers,
      2023; Touvron et al., Going deeper with image transformers, 2021.
    """

    no_weight_decay = frozenset({"extra_tokens"})

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden_dim: int,
        pattern: str,
        mixer_cfg: Mapping[str, Config[nn.Module]],
        norm_cfg: Config[nn.Module],
        mlp_cfg: Config[nn.Module] | None,
        image_size: int | Sequence[int],
        patch_size: int | Sequence[int],
        data_dim: int = 2,
        num_registers: int = 4,
        class_token: bool = True,
        readout: Readout = "class",
        position_cfg: Config[nn.Module] | None = None,
        layer_scale: float | None = 1e-4,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, num_classes=num_classes, hidden_dim=hidden_dim)
        sizes = per_axis("image_size", image_size, data_dim, least=1)
        patches = per_axis("patch_size", patch_size, data_dim, least=1)
        if any(size % patch for size, patch in zip(sizes, patches, strict=True)):
            raise ConfigurationError(f"image_size is {sizes}, patch_size {patches}; it must divide along each axis")
        self.grid = tuple(size // patch for size, patch in zip(sizes, patches, strict=True))
        extra = num_registers + class_token
        if num_registers < 0 or readout not in ("class", "mean", "registers"):
            raise ConfigurationError(
                f"num_registers is {num_registers}, readout {readout!r}; accepted are 0 and more, and 'class', 'mean' "
                "and 'registers'"
            )
        if (readout == "class" and not class_token) or (readout == "registers" and not extra):
            raise ConfigurationError(
                f"readout is {readout!r} with class_token {class_token} and {num_registers} registers; it has nothing "
                "to read, 'mean' reads the patches"
            )
        self.readout: Readout = readout
        self.class_token = class_token
        self.patchify = Patchify(in_channels, hidden_dim, patch_size=patches, data_dim=data_dim)
        self.position = nn.Identity()
        if position_cfg is not None:
            self.position = instantiate(position_cfg, channels=hidden_dim, data_dim=data_dim)
        self.extra_tokens = nn.Parameter(torch.empty(extra, hidden_dim))
        self.stack = BlockStack(
            pattern_blocks(
                pattern, mixer_cfg, norm_cfg, mlp_cfg, hidden_dim=hidden_dim, layer_scale=layer_scale,
                drop_path_rates=drop_path_rates(drop_path, len(pattern)),
            ),
            gradient_checkpointing=gradient_checkpointing,
        )  # fmt: skip
        self.norm = instantiate(norm_cfg, channels=hidden_dim)
        self.head = nn.Linear(hidden_dim * (extra if readout == "registers" else 1), num_classes)
        self.reset_parameters()
        self.to(device=device, dtype=dtype)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws class token, registers and head with deviation 0.02; the other parts reset themselves."""
        reset_truncated_normal(self.extra_tokens, 0.02, generator)
        reset_truncated_normal(self.head.weight, 0.02, generator)
        reset_constant(self.head.bias, 0.0)

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch class"]:
        """Returns the logits of every sample, channels last in.

        Raises:
          InputMismatch: The input has another number of channels or axes, or another size than ``image_size``.
        """
        tokens = self.encode(x)
        points = math.prod(self.grid)
        if self.readout == "mean":
            return self.head(tokens[:, :points].mean(dim=1))
        return self.head(tokens[:, points] if self.readout == "class" else tokens[:, points:].flatten(1))

    def encode(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch token hidden"]:
        """Returns the tokens behind the last norm: patches row by row, class token, registers.

        Raises:
          InputMismatch: The input has another number of channels or axes, or another size than ``image_size``.
        """
        patches = self.patchify(x)
        if patches.shape[1:-1] != self.grid:
            raise InputMismatch(
                f"the input has {tuple(patches.shape[1:-1])} patches; the network was made for {self.grid}"
            )
        tokens = self.position(patches).flatten(1, -2)
        extra = self.extra_tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return self.norm(self.stack(torch.cat([tokens, extra], dim=1)))


def drop_path_rates(last: float, layers: int) -> list[float]:
    """Returns ``last * layer / (layers - 1)`` for every layer."""
    return [last * layer / max(1, layers - 1) for layer in range(layers)]


def pattern_blocks(
    pattern: str,
    mixer_cfg: Mapping[str, Config[nn.Module]],
    norm_cfg: Config[nn.Module],
    mlp_cfg: Config[nn.Module] | None,
    *,
    hidden_dim: int,
    layer_scale: float | None,
    drop_path_rates: Sequence[float],
) -> list[Config[ResidualBlock]]:
    """Returns the configuration of a block for every letter, with its width filled in.

    Raises:
      ConfigurationError: The pattern is empty or has a letter without a mixer.
    """
    if not pattern or not set(pattern) <= set(mixer_cfg):
        raise ConfigurationError(
            f"pattern is {pattern!r}; it takes one or more of the letters of mixer_cfg: {', '.join(mixer_cfg)}"
        )

    def filled(cfg: Config[nn.Module]) -> Config[nn.Module]:
        return derive(cfg, {"channels": hidden_dim})

    return [
        LazyConfig(ResidualBlock)(
            sequence_mixer_cfg=LazyConfig(QKVSequenceMixer)(hidden_dim=hidden_dim, mixer_cfg=filled(mixer_cfg[letter])),
            norm_cfg=filled(norm_cfg),
            mlp_cfg=None if mlp_cfg is None else filled(mlp_cfg),
            layer_scale=layer_scale,
            drop_path=rate,
        )
        for letter, rate in zip(pattern, drop_path_rates, strict=True)
    ]
