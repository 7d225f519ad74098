"""Modules of the published nvsubquadratic 0.2.0, tiny and with random weights, and its names in our terms."""

import re
from typing import Any

import torch
from nvsubquadratic.lazy_config import LazyConfig as PeerConfig
from nvsubquadratic.lazy_config import instantiate as peer_instantiate
from nvsubquadratic.modules import (
    ckconv_nd,
    film,
    hyena_nd,
    kernels_nd,
    masks_nd,
    mlp,
    residual_block,
    rms_norm,
    sequence_mixer,
    vit5_residual_block,
)
from nvsubquadratic.modules.causal_conv1d import CausalConv1D
from torch import Tensor, nn

CHANNELS = 4
Weights = dict[str, Tensor]

# What a name of theirs (a pattern, applied in this order) is called here.
NAMES = [
    (r"positional_embedding\.linear\.", "first."),
    (r"positional_embedding\.omega_0_scale", "omega_scale"),
    (r"hidden_linears\.", "hidden."),
    (r"kernel_network\.0\.", "hidden.0."),
    (r"kernel_network\.2\.", "hidden.1."),
    (r"out_linear\.", "out."),
    (r"film_generator\.mlp\.0\.", "film.in_proj."),
    (r"film_generator\.mlp\.2\.", "film.out_proj."),
    (r"(^|\.)kernel\.", r"\1filter."),
    (r"(^|\.)mask\.weight$", r"\1modulation.rate"),
    (r"(^|\.)mask\.std_param$", r"\1modulation.parameter"),
    (r"shortcut$", "skip"),
    (r"short_conv\.weight$", "short_conv.taps"),
    (r"pixelhyena_norm\.weight$", "pixel_norm.scale"),
    (r"(sequence_norm|input_norm)\.weight$", "sequence_mixer_norm.scale"),
    (r"(_norm)\.weight$", r"\1.scale"),
    (r"condition_proj\.1\.", "condition_proj."),
    (r"mlp\.layer1\.|^layer1\.", "mlp.in_proj."),
    (r"mlp\.layer2\.|^layer2\.", "mlp.out_proj."),
    (r"ls_attn\.gamma", "layer_scales.sequence_mixer.scale"),
    (r"ls_mlp\.gamma", "layer_scales.mlp.scale"),
]


def converted(peer: nn.Module) -> Weights:
    """Returns the weights of a module of theirs under our names and in our orientations."""
    ours = {}
    for key, value in peer.named_parameters():
        name = key
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if name.endswith(("modulation.rate", "modulation.parameter")):
            value = value.T
        elif name.endswith("short_conv.taps"):
            value = value.squeeze(1).flip(tuple(range(1, value.dim() - 1)))
        elif "qkv_proj" in name:  # rows [q, k, v], one after the other; here row 3 c + p
            value = value.unflatten(0, (3, -1)).transpose(0, 1).flatten(0, 1)
        ours[name] = value.detach()
    return ours


def loaded(ours: Any, peer: nn.Module, weights: Weights | None = None) -> Any:
    """Gives a module of ours the weights of one of theirs; every parameter has to be met on both sides."""
    weights = converted(peer) if weights is None else weights
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not {name for name in missing if name in dict(ours.named_parameters())}
    return ours.eval()


def lively(peer: nn.Module) -> Any:
    """Moves what starts constant or zero, envelopes aside, so that every weight shows in the output."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in peer.named_parameters():
            if "std_param" not in name and float(value.max()) == float(value.min()):
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return peer.eval()


def siren(data_dim: int = 1, reach: Any = 9, kind: Any = kernels_nd.SIRENKernelND, **options: Any) -> Any:
    """The configuration of a filter network of theirs."""
    given: dict[str, Any] = {} if "omega_0_per_row" in options or "num_blocks" in options else {"omega_0": 10.0}
    return PeerConfig(kind)(
        out_dim=CHANNELS,
        data_dim=data_dim,
        mlp_hidden_dim=8,
        num_layers=3,
        embedding_dim=8,
        L_cache=reach,
        use_bias=True,
        **{**given, **options},
    )


def film_config(condition: int, layers: int = 2) -> Any:
    """The configuration of their conditioning of a filter network, by default of two hidden layers."""
    return PeerConfig(film.KernelFiLMGenerator)(
        cond_dim=condition, kernel_hidden_dim=8, num_film_layers=layers, film_hidden_dim=8
    )


def gaussian(data_dim: int, reach: int, **options: Any) -> Any:
    """The configuration of their Gaussian envelope."""
    return PeerConfig(masks_nd.GaussianModulationND)(
        data_dim=data_dim, num_channels=CHANNELS, grid_size=reach, **options
    )


def ckconv(size: int, data_dim: int, **options: Any) -> Any:
    """The configuration of their convolution; it sets sizes of filter and envelope itself."""
    given = {"grid_type": "double", "fft_padding": "zero", "mask_cfg": gaussian(data_dim, size)}
    condition = options.pop("condition", None)
    more = {} if condition is None else {"film_cfg": film_config(condition)}
    return PeerConfig(ckconv_nd.CKConvND)(
        data_dim=data_dim,
        hidden_dim=CHANNELS,
        kernel_cfg=siren(data_dim, size, omega_0=2.0, **more),
        **{**given, **options},
    )


def norm() -> Any:
    """The configuration of their norm, in plain PyTorch."""
    return PeerConfig(rms_norm.RMSNorm)(dim=CHANNELS, use_quack=False)


def hyena(size: int, data_dim: int, gate: type[nn.Module], causal: bool = False, **options: Any) -> Any:
    """The configuration of their Hyena with norms."""
    convolution = CausalConv1D if causal else (nn.Conv1d, nn.Conv2d, nn.Conv3d)[data_dim - 1]
    width = 3 * CHANNELS
    padding = {} if causal else {"padding": 1}
    return PeerConfig(hyena_nd.Hyena)(
        global_conv_cfg=ckconv(size, data_dim, is_causal=causal, condition=options.pop("condition", None)),
        short_conv_cfg=PeerConfig(convolution)(
            in_channels=width, out_channels=width, kernel_size=3, groups=width, **padding
        ),
        gate_nonlinear_cfg=PeerConfig(gate)(),
        pixelhyena_norm_cfg=norm(),
        qk_norm_cfg=options.pop("qk_norm_cfg", PeerConfig(nn.Identity)()),
        output_norm_cfg=norm(),
        **options,
    )


def mixing(**options: Any) -> Any:
    """The configuration of their projections around a Hyena over 6 by 6 points."""
    return PeerConfig(sequence_mixer.QKVSequenceMixer)(
        hidden_dim=CHANNELS, mixer_cfg=hyena(6, 2, nn.SiLU, **options), qkv_bias=True, out_proj_bias=True
    )


def perceptron(activation: str) -> Any:
    """The configuration of their MLP."""
    return PeerConfig(mlp.MLP)(dim=CHANNELS, activation=activation, dropout_cfg=PeerConfig(nn.Identity)(), bias=True)


def conditioned_block() -> Any:
    """Their AdaLN-Zero block around a Hyena whose filters take the condition."""
    return lively(
        residual_block.AdaLNZeroResidualBlock(
            sequence_mixer_cfg=mixing(condition=CHANNELS),
            sequence_mixer_norm_cfg=norm(),
            mlp_cfg=perceptron("gelu"),
            mlp_norm_cfg=norm(),
            condition_norm_cfg=norm(),
            dropout_cfg=PeerConfig(nn.Identity)(),
            hidden_dim=CHANNELS,
        )
    )


def vision_block() -> Any:
    """Their ViT-5 block around a Hyena."""
    return lively(
        vit5_residual_block.ViT5ResidualBlock(
            sequence_mixer_cfg=mixing(),
            sequence_mixer_norm_cfg=norm(),
            mlp_cfg=perceptron("swiglu"),
            mlp_norm_cfg=norm(),
            hidden_dim=CHANNELS,
        )
    )


def build(config: Any) -> Any:
    """Makes a module of theirs, lively and in eval mode, from the same seed every time."""
    torch.manual_seed(0)
    return lively(peer_instantiate(config))
