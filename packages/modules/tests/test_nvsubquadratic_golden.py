"""Our modules against recorded numbers of the published nvsubquadratic 0.2.0; see ``data/README.md``."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from subquad.lazy_config import LazyConfig, instantiate
from subquad.modules import (
    MLP,
    AdaLNZeroBlock,
    CKConv,
    ExponentialModulation,
    FilterFiLM,
    GaussianModulation,
    GlobalResponseNorm,
    Hyena,
    MultiHeadAttention,
    Patchify,
    QKVSequenceMixer,
    RandomFourierFilter,
    ResidualBlock,
    RMSNorm,
    ShortConvolution,
    SIRENFilter,
    Unpatchify,
)
from tools.testing.oracle import assert_close, relative_error

GOLDEN = load_file(Path(__file__).parent / "data" / "nvsubquadratic_0_2_0.safetensors")
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


def converted(case: str) -> Weights:
    """Returns the recorded weights of a case under our names and in our orientations."""
    ours = {}
    for key, value in part(case, "weight").items():
        name = key
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if name.endswith(("modulation.rate", "modulation.parameter")):
            value = value.T
        elif name.endswith("short_conv.taps"):
            value = value.squeeze(1).flip(tuple(range(1, value.dim() - 1)))
        elif "qkv_proj" in name:  # rows [q, k, v], one after the other; here row 3 c + p
            value = value.unflatten(0, (3, -1)).transpose(0, 1).flatten(0, 1)
        ours[name] = value
    return ours


def part(case: str, kind: str) -> Weights:
    prefix = f"{case}/{kind}/"
    return {name.removeprefix(prefix): value for name, value in GOLDEN.items() if name.startswith(prefix)}


def streams(case: str) -> list[Tensor]:
    return [part(case, "input")[name] for name in ("q", "k", "v")]


def loaded(module: nn.Module, weights: Weights) -> Any:
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not missing
    return module.eval()


def agrees(case: str, y: Tensor) -> None:
    assert_close(y, GOLDEN[f"{case}/output"], relative=1e-5)


def around(*sizes: int) -> tuple[range, ...]:
    return tuple(range(1 - size, size) for size in sizes)


FILM = LazyConfig(FilterFiLM)(condition_dim=3, inner_dim=8)
SIREN: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "siren_1d": ({"trained_reach": 9}, (6,)),
    "siren_longer": ({"trained_reach": 9}, (14,)),
    "siren_2d": ({"trained_reach": (5, 7), "data_dim": 2}, (5, 6)),
    "siren_film": ({"trained_reach": 9, "film_cfg": FILM}, (9,)),
    "multi_omega": ({"trained_reach": 9, "omega_0": (1.0, 6.0)}, (9,)),
    "block_diagonal": ({"trained_reach": 9}, (9,)),
    "learnable_omega": ({"trained_reach": 9, "omega_0": 3.0, "learnable_omega": True}, (9,)),
}


@pytest.mark.parametrize("case", SIREN)
def test_sine_filters_agree(case: str) -> None:
    options, size = SIREN[case]
    model = loaded(SIRENFilter(4, hidden_dim=8, **options), converted(case))
    agrees(case, model(around(*size), part(case, "input").get("condition")))


def test_fourier_filters_agree() -> None:
    model = RandomFourierFilter(4, data_dim=2, trained_reach=5, hidden_dim=8, embedding_dim=8)
    agrees("fourier_2d", loaded(model, converted("fourier_2d"))(around(5, 5)))


def test_envelopes_agree() -> None:
    model: nn.Module = ExponentialModulation(4, data_dim=2, trained_reach=5)
    model.load_state_dict({"rate": part("exponential", "weight")["weight"].T})
    agrees("exponential", model(around(5, 5)).unsqueeze(0))
    for form in ("direct", "log", "softplus"):
        case = f"gaussian_{form}"
        model = GaussianModulation(4, data_dim=2, trained_reach=5, parametrization=form)
        assert_close(model.parameter, part(case, "weight")["std_param"].T, relative=1e-6)  # also at the start
        agrees(case, model(around(5, 5)).unsqueeze(0))


def long(size: int, data_dim: int, **options: Any) -> Any:
    options = {"modulation_cfg": LazyConfig(GaussianModulation)(), **options}
    film = options.pop("film_cfg", None)
    return LazyConfig(CKConv)(
        channels=4,
        filter_cfg=LazyConfig(SIRENFilter)(omega_0=2.0, hidden_dim=8, film_cfg=film),
        trained_size=size,
        data_dim=data_dim,
        **options,
    )


CONVOLUTIONS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "ckconv_causal": (11, 1, {"causal": True}),
    "ckconv_zero_1d": (11, 1, {}),
    "ckconv_zero_2d": (6, 2, {}),
    "ckconv_single_2d": (6, 2, {"extent": "single"}),
    "ckconv_circular_2d": (6, 2, {"boundary": "circular"}),
    "ckconv_circular_odd": (9, 1, {"boundary": "circular"}),
    "ckconv_mixed_2d": (6, 2, {"boundary": ("zero", "circular"), "modulation_cfg": None}),
    "ckconv_zero_3d": (3, 3, {}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_agree(case: str) -> None:
    size, data_dim, options = CONVOLUTIONS[case]
    model = loaded(instantiate(long(size, data_dim, **options)), converted(case))
    agrees(case, model.convolve(part(case, "input")["x"]))


def hyena(size: int, data_dim: int, causal: bool = False, **options: Any) -> Any:
    norm = LazyConfig(RMSNorm)(channels=4, form="standard")
    return LazyConfig(Hyena)(
        channels=4,
        global_conv_cfg=long(size, data_dim, causal=causal, film_cfg=options.pop("film_cfg", None)),
        short_conv_cfg=LazyConfig(ShortConvolution)(data_dim=data_dim, causal=causal, bias=True),
        pixel_norm_cfg=norm,
        output_norm_cfg=norm,
        **options,
    )


def test_hyena_agrees() -> None:
    norm = LazyConfig(RMSNorm)(channels=4, form="standard")
    for case, cfg in (
        ("hyena_causal", hyena(11, 1, causal=True, gate_cfg=LazyConfig(nn.SiLU)())),
        ("hyena_2d", hyena(6, 2, qk_norm_cfg=norm)),
    ):
        agrees(case, loaded(instantiate(cfg), converted(case))(*streams(case)))


def mixing(**options: Any) -> Any:
    return LazyConfig(QKVSequenceMixer)(
        hidden_dim=4,
        mixer_cfg=hyena(6, 2, gate_cfg=LazyConfig(nn.SiLU)(), **options),
        qkv_bias=True,
        out_proj_bias=True,
    )


def gate_last(weights: Weights) -> Weights:
    """Exchanges the halves of a SwiGLU: here the second goes through the activation, there the first."""
    return {k: torch.cat(v.chunk(2)[::-1]) if "mlp.in_proj" in k else v for k, v in weights.items()}


def test_conditioned_and_vision_blocks_agree() -> None:
    norm = LazyConfig(RMSNorm)(channels=4, form="standard")
    film = LazyConfig(FilterFiLM)(condition_dim=4, inner_dim=8)
    ada = AdaLNZeroBlock(
        4, mixing(film_cfg=film), norm, LazyConfig(MLP)(channels=4, bias=True), condition_norm_cfg=norm
    )
    given = part("ada_ln_zero", "input")
    agrees("ada_ln_zero", loaded(ada, converted("ada_ln_zero"))(given["x"], given["condition"]))

    mlp = LazyConfig(MLP)(channels=4, activation="swiglu", bias=True)
    vision = ResidualBlock(mixing(), norm, mlp, layer_scale=1e-4)
    weights = gate_last(converted("vit_block"))
    agrees("vit_block", loaded(vision, weights)(part("vit_block", "input")["x"]))


@pytest.mark.parametrize("activation", ["relu", "silu", "glu"])
def test_mlps_agree(activation: Any) -> None:
    case = f"mlp_{activation}"
    model = nn.ModuleDict({"mlp": MLP(4, activation=activation, bias=True)})
    agrees(case, loaded(model, converted(case))["mlp"](part(case, "input")["x"]))


def test_the_response_norm_agrees() -> None:
    weights = part("grn", "weight")
    model = loaded(GlobalResponseNorm(4), {"scale": weights["gamma"], "shift": weights["beta"]})
    agrees("grn", model(part("grn", "input")["x"]))


def test_patches_agree() -> None:
    weights = part("patchify", "weight")
    there = Patchify(4, 5, patch_size=3, data_dim=2)
    there.linear.load_state_dict(
        {"weight": weights["conv.weight"].movedim(1, -1).flatten(1), "bias": weights["conv.bias"]}
    )
    agrees("patchify", there(part("patchify", "input")["x"]))
    weights = part("unpatchify", "weight")
    back = Unpatchify(4, 5, patch_size=3, data_dim=2)
    back.linear.load_state_dict(
        {"weight": weights["deconv.weight"].permute(2, 3, 1, 0).flatten(0, 2), "bias": weights["deconv.bias"].repeat(9)}
    )
    agrees("unpatchify", back(part("unpatchify", "input")["x"]))


ATTENTIONS: dict[str, dict[str, Any]] = {
    "attention_2d": {"rotary_base": None},
    "attention_qk_norm": {"rotary_base": None, "qk_norm": "l2", "scale": 1.0},
    "attention_rope": {},
}


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention_agrees(case: str) -> None:
    agrees(case, MultiHeadAttention(12, num_heads=3, data_dim=2, **ATTENTIONS[case])(*streams(case)))


def test_they_differ_in_rotary_positions_of_more_than_one_pair() -> None:
    y = MultiHeadAttention(12, num_heads=1)(*streams("attention_rope_wide"))
    assert relative_error(GOLDEN["attention_rope_wide/output"], y) > 1e-3


def test_they_differ_once_a_filter_was_made_longer_twice() -> None:
    model = loaded(SIRENFilter(4, trained_reach=10, hidden_dim=8), converted("history"))
    for reach in (20, 40, 10):
        y = model(around(reach))
    assert relative_error(GOLDEN["history/output"], y) > 0.1
