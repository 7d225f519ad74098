"""Our modules beside those of the published nvsubquadratic 0.2.0, with the same weights and inputs.

Where it is right the two agree to 1e-5; the tests whose names begin with "they" hold what it does otherwise, which
``nvsubquadratic.md`` lists.
"""

from typing import Any

import pytest
import torch
from nvsubquadratic.modules import attention, grn, kernels_nd, masks_nd, patchify
from nvsubquadratic.modules.vit5_attention import ViT5Attention
from nvsubquadratic.ops.circular_fftconv import circular_fftconv1d_fp32_bhl
from nvsubquadratic.ops.fftconv import causal_fftconv1d_fp32_bhl, fftconv1d_fp32_bhl
from torch import Tensor, nn

from packages.modules.tests import nvsubquadratic_peer as peer
from packages.modules.tests.nvsubquadratic_peer import CHANNELS, PeerConfig, loaded
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
    RegisterAttention,
    ResidualBlock,
    RMSNorm,
    ShortConvolution,
    SIRENFilter,
    Unpatchify,
    frequency_bands,
)
from subquad.ops import fft_conv
from tools.testing.oracle import assert_close, relative_error

FILM = LazyConfig(FilterFiLM)(condition_dim=3, inner_dim=8)
NORM = LazyConfig(RMSNorm)(channels=CHANNELS, form="standard")


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def agrees(ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, relative=1e-5)


def around(*sizes: int) -> tuple[range, ...]:
    return tuple(range(1 - size, size) for size in sizes)


def channels_first(theirs: Tensor) -> Tensor:
    return theirs.movedim(-1, 1)


SIREN: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]] = {
    "one axis": ({}, {}, (6,)),
    "longer than trained": ({}, {}, (14,)),
    "two axes": ({"data_dim": 2, "reach": (5, 7)}, {"trained_reach": (5, 7), "data_dim": 2}, (5, 6)),
    "a frequency a row": (
        {"kind": kernels_nd.MultiOmegaSIRENKernelND, "omega_0_per_row": [1.0] * 4 + [6.0] * 4},
        {"omega_0": (1.0, 6.0)},
        (9,),
    ),
    "blocks": (
        {"kind": kernels_nd.BlockDiagonalMultiOmegaSIRENKernelND, "num_blocks": 4},
        {"omega_0": (1.0, 4.0, 8.0, 12.0), "off_block_scale": 0.1},
        (9,),
    ),
    "learnable": (
        {"kind": kernels_nd.LearnableOmegaSIRENKernelND, "omega_0": 3.0},
        {"omega_0": 3.0, "learnable_omega": True},
        (9,),
    ),
}


@pytest.mark.parametrize("case", SIREN)
def test_sine_filters_agree(case: str) -> None:
    theirs, ours, size = SIREN[case]
    other = peer.build(peer.siren(**theirs))
    model = loaded(SIRENFilter(CHANNELS, hidden_dim=8, **{"trained_reach": 9, **ours}), other)
    agrees(model(around(*size)), channels_first(other(size)[0]))


def test_learnable_bands_agree() -> None:
    kind = kernels_nd.BlockDiagonalLearnableOmegaSIRENKernelND
    other = peer.build(peer.siren(kind=kind, num_blocks=2, omega_0_min=3.0))
    ours = {"omega_0": (3.0, 12.0), "off_block_scale": 0.1, "learnable_omega": True}
    model = SIRENFilter(CHANNELS, hidden_dim=8, trained_reach=9, **ours)
    weights = peer.converted(other)
    weights["omega_scale"] = weights["omega_scale"] * torch.tensor([4.0] * 4 + [1.0] * 4)  # of the greatest one there
    agrees(loaded(model, other, weights)(around(9)), channels_first(other((9,))[0]))


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_bands_of_frequencies_agree(spacing: Any) -> None:
    theirs = kernels_nd._build_omega_0_per_block(
        num_blocks=4, omega_0_min=0.5, omega_0_max=8.0, schedule=spacing
    )  # private, but what their classes call
    agrees(torch.tensor(frequency_bands(4, least=0.5, greatest=8.0, spacing=spacing)), theirs.float())


@pytest.mark.parametrize("on_embedding", [False, True])
def test_a_conditioned_filter_agrees(on_embedding: bool) -> None:
    film_cfg = peer.film_config(3, layers=2 + on_embedding)
    other = peer.build(peer.siren(film_cfg=film_cfg, film_after_pos_embed=on_embedding))
    model = SIRENFilter(CHANNELS, hidden_dim=8, trained_reach=9, film_cfg=FILM, film_on_embedding=on_embedding)
    loaded(model, other)
    condition = torch.randn(3, 3)
    agrees(model(around(9), condition), channels_first(other((9,), conditioning=condition)[0]))


def test_fourier_filters_agree() -> None:
    options = {"kind": kernels_nd.RandomFourierKernelND, "omega_0": 1.0, "nonlinear_cfg": PeerConfig(nn.GELU)()}
    other = peer.build(peer.siren(2, 5, **options))
    model = RandomFourierFilter(CHANNELS, data_dim=2, trained_reach=5, hidden_dim=8, embedding_dim=8)
    agrees(loaded(model, other)(around(5, 5)), channels_first(other((5, 5))[0]))


@pytest.mark.parametrize("form", ["exponential", "direct", "log", "softplus", "aligned"])
def test_envelopes_agree(form: Any) -> None:
    taps, grid = peer.build(peer.siren(2, 5))((5, 5))
    if form == "exponential":
        other: Any = masks_nd.ExponentialModulationND(data_dim=2, num_channels=CHANNELS)
        model: Any = ExponentialModulation(CHANNELS, data_dim=2, trained_reach=5)
        model.load_state_dict({"rate": other.weight.T})
    else:
        kind = masks_nd.BlockAlignedGaussianModulationND if form == "aligned" else masks_nd.GaussianModulationND
        parametrization = "direct" if form == "aligned" else form
        other = kind(data_dim=2, num_channels=CHANNELS, grid_size=9, parametrization=parametrization)
        model = GaussianModulation(
            CHANNELS, data_dim=2, trained_reach=5, parametrization=parametrization, widest_first=form == "aligned"
        )
        assert_close(model.parameter, other.std_param.T, relative=1e-6)  # they start alike
    agrees(model(around(5, 5)).unsqueeze(0) * channels_first(taps), channels_first(other(grid, taps)))


def long(size: int, data_dim: int, **options: Any) -> Any:
    film_cfg = options.pop("film_cfg", None)
    return LazyConfig(CKConv)(
        channels=CHANNELS,
        filter_cfg=LazyConfig(SIRENFilter)(omega_0=2.0, hidden_dim=8, film_cfg=film_cfg),
        trained_size=size,
        data_dim=data_dim,
        **{"modulation_cfg": LazyConfig(GaussianModulation)(), **options},
    )


NO_MASK = {"mask_cfg": PeerConfig(nn.Identity)()}
CIRCULAR = {"grid_type": "single", "fft_padding": "circular"}
CONVOLUTIONS: dict[str, tuple[int, int, dict[str, Any], dict[str, Any]]] = {
    "causal": (11, 1, {"is_causal": True}, {"causal": True}),
    "zero, one axis": (11, 1, {}, {}),
    "zero, two axes": (6, 2, {}, {}),
    "zero, three axes": (3, 3, {}, {}),
    "half extent": (6, 2, {"grid_type": "single"}, {"extent": "single"}),
    "circular": (6, 2, CIRCULAR, {"boundary": "circular"}),
    "circular, odd": (9, 1, CIRCULAR, {"boundary": "circular"}),
    "chunks of channels": (6, 2, {"use_chunked_fftconv": True}, {"chunk_size": 2}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_agree(case: str) -> None:
    size, data_dim, theirs, ours = CONVOLUTIONS[case]
    other = peer.build(peer.ckconv(size, data_dim, **theirs))
    x = torch.randn(2, *[size] * data_dim, CHANNELS)
    agrees(loaded(instantiate(long(size, data_dim, **ours)), other).convolve(x), other(x))


@pytest.mark.parametrize("boundary", [("zero", "circular"), ("circular", "zero"), ("zero", "circular", "zero")])
def test_convolutions_with_mixed_boundaries_agree(boundary: tuple[Any, ...]) -> None:
    size, data_dim = {2: 6, 3: 4}[len(boundary)], len(boundary)
    theirs = {"grid_type": None, "fft_padding": list(boundary), "mask_cfg": PeerConfig(_NoEnvelope)()}
    other = peer.build(peer.ckconv(size, data_dim, **theirs))
    x = torch.randn(2, *[size] * data_dim, CHANNELS)
    model = loaded(instantiate(long(size, data_dim, boundary=boundary, modulation_cfg=None)), other)
    agrees(model.convolve(x), other(x))


class _NoEnvelope(nn.Module):
    """An envelope of ones, in their terms."""

    def forward(self, grid: Tensor, x: Tensor) -> Tensor:
        return x


def hyena(size: int, data_dim: int, causal: bool = False, **options: Any) -> Any:
    return LazyConfig(Hyena)(
        channels=CHANNELS,
        global_conv_cfg=long(size, data_dim, causal=causal, film_cfg=options.pop("film_cfg", None)),
        short_conv_cfg=LazyConfig(ShortConvolution)(data_dim=data_dim, causal=causal, bias=True),
        pixel_norm_cfg=NORM,
        output_norm_cfg=NORM,
        **options,
    )


HYENAS: dict[str, tuple[int, int, dict[str, Any], dict[str, Any]]] = {
    "causal": (11, 1, {"gate": nn.SiLU, "causal": True}, {"gate_cfg": LazyConfig(nn.SiLU)(), "causal": True}),
    "norms of q and k": (6, 2, {"gate": nn.Identity, "qk_norm_cfg": peer.norm()}, {"qk_norm_cfg": NORM}),
    "two gates": (
        6,
        2,
        {"gate": nn.SiLU, "gate_nonlinear_2_cfg": PeerConfig(nn.Sigmoid)()},
        {"gate_cfg": LazyConfig(nn.SiLU)(), "output_gate_cfg": LazyConfig(nn.Sigmoid)()},
    ),
    "three axes": (4, 3, {"gate": nn.Sigmoid}, {"gate_cfg": LazyConfig(nn.Sigmoid)()}),
}


@pytest.mark.parametrize("case", HYENAS)
def test_hyena_agrees(case: str) -> None:
    size, data_dim, theirs, ours = HYENAS[case]
    other = peer.build(peer.hyena(size, data_dim, **theirs))
    qkv = torch.randn(3, 2, *[size] * data_dim, CHANNELS)
    agrees(loaded(instantiate(hyena(size, data_dim, **ours)), other)(*qkv), other(*qkv))


def mixing(**options: Any) -> Any:
    return LazyConfig(QKVSequenceMixer)(
        hidden_dim=CHANNELS,
        mixer_cfg=hyena(6, 2, gate_cfg=LazyConfig(nn.SiLU)(), **options),
        qkv_bias=True,
        out_proj_bias=True,
    )


def test_the_conditioned_block_agrees() -> None:
    other = peer.conditioned_block()
    film_cfg = LazyConfig(FilterFiLM)(condition_dim=CHANNELS, inner_dim=8)
    mlp = LazyConfig(MLP)(channels=CHANNELS, bias=True)
    model = AdaLNZeroBlock(CHANNELS, mixing(film_cfg=film_cfg), NORM, mlp, condition_norm_cfg=NORM)
    x, condition = torch.randn(2, 6, 6, CHANNELS), torch.randn(2, CHANNELS)
    agrees(loaded(model, other)(x, condition), other(x, condition))


def test_the_vision_block_agrees() -> None:
    other = peer.vision_block()
    mlp = LazyConfig(MLP)(channels=CHANNELS, activation="swiglu", bias=True)
    weights = peer.converted(other)
    for name in ("mlp.in_proj.weight", "mlp.in_proj.bias"):  # here the second half of a SwiGLU is activated
        weights[name] = torch.cat(weights[name].chunk(2)[::-1])
    x = torch.randn(2, 6, 6, CHANNELS)
    agrees(loaded(ResidualBlock(mixing(), NORM, mlp, layer_scale=1e-4), other, weights)(x), other(x))


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "glu"])
def test_mlps_agree(activation: Any) -> None:
    other = peer.build(peer.perceptron(activation))
    model = nn.ModuleDict({"mlp": MLP(CHANNELS, activation=activation, bias=True)})
    x = torch.randn(2, 5, CHANNELS)
    agrees(loaded(model, other)["mlp"](x), other(x))


def test_the_response_norm_agrees() -> None:
    other = peer.lively(grn.GlobalResponseNorm(CHANNELS))
    model = GlobalResponseNorm(CHANNELS)
    model.load_state_dict({"scale": other.gamma, "shift": other.beta})
    x = torch.randn(2, 5, 6, CHANNELS)
    agrees(model(x), other(x))


@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_patches_agree(data_dim: int) -> None:
    x = torch.randn(2, *(9, 6, 3)[:data_dim], CHANNELS)
    there, other = Patchify(CHANNELS, 5, patch_size=3, data_dim=data_dim), patchify.Patchify(CHANNELS, 5, data_dim, 3)
    there.linear.load_state_dict({"weight": other.conv.weight.movedim(1, -1).flatten(1), "bias": other.conv.bias})
    agrees(there(x), other(x))
    back = Unpatchify(CHANNELS, 5, patch_size=3, data_dim=data_dim)
    finer = patchify.Unpatchify(CHANNELS, 5, data_dim, 3)
    weight = finer.deconv.weight.movedim(1, -1).movedim(0, -1).flatten(0, -2)
    back.linear.load_state_dict({"weight": weight, "bias": finer.deconv.bias.repeat(3**data_dim)})
    agrees(back(x), finer(x))


ATTENTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"rotary_base": None}),
    "norms of q and k": ({"apply_qk_norm": True}, {"rotary_base": None, "qk_norm": "l2", "scale": 1.0}),
    "rotary": ({"use_rope": True, "rope_spatial_dims": (5, 4)}, {}),
}


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention_agrees(case: str) -> None:
    theirs, ours = ATTENTIONS[case]
    other = attention.Attention(
        **{"hidden_dim": 12, "num_heads": 3, "apply_qk_norm": False, "use_rope": False, **theirs}
    )
    qkv = torch.randn(3, 2, 5, 4, 12)
    expected = other.eval()(*(x.clone() for x in qkv))
    agrees(MultiHeadAttention(12, num_heads=3, data_dim=2, **ours)(*qkv), expected)


def test_attention_over_registers_agrees_where_an_axis_has_one_pair() -> None:
    other = ViT5Attention(
        12, 3, 5, 4, num_registers=4, qk_norm=PeerConfig(peer.rms_norm.RMSNorm)(dim=4, use_quack=False)
    )
    mixer_cfg = LazyConfig(RegisterAttention)(channels=12, num_heads=3, grid_size=(5, 4))
    model = QKVSequenceMixer(12, mixer_cfg)
    rows = other.qkv.weight.unflatten(0, (3, 12))
    assert model.stream_channels == (12, 12, 12)
    model.load_state_dict(
        {
            "qkv_proj.weight": rows.transpose(0, 1).flatten(0, 1),
            "out_proj.weight": other.proj.weight,
            "mixer.q_norm.scale": other.q_norm.weight,
            "mixer.k_norm.scale": other.k_norm.weight,
        },
        strict=False,
    )
    x = torch.randn(2, 25, 12)
    agrees(model(x), other(x))


def test_they_do_not_rotate_where_an_axis_has_more_than_one_pair() -> None:
    options = {"apply_qk_norm": False, "use_rope": True, "rope_spatial_dims": (9,)}
    other, ours = attention.Attention(12, 1, **options), MultiHeadAttention(12, num_heads=1)
    qkv = torch.randn(3, 2, 9, 12)
    assert relative_error(other(*(x.clone() for x in qkv)), ours(*qkv)) > 1e-3


def test_they_let_a_filter_depend_on_how_long_it_was_before() -> None:
    other = peer.build(peer.siren(reach=10))
    model = loaded(SIRENFilter(CHANNELS, trained_reach=10, hidden_dim=8), other)
    before = channels_first(other((10,))[0])
    agrees(model(around(10)), before)
    for reach in (20, 40, 10):
        theirs, ours = channels_first(other((reach,))[0]), model(around(reach))
    assert relative_error(theirs, before) > 0.1
    agrees(ours, before)


def test_they_see_the_future_with_a_causal_filter_longer_than_the_input() -> None:
    x, taps = torch.randn(1, 2, 8), torch.randn(1, 2, 16)
    changed = x.clone()
    changed[..., -1] += 1
    theirs = causal_fftconv1d_fp32_bhl(changed, taps) - causal_fftconv1d_fp32_bhl(x, taps)
    ours = fft_conv(changed, taps, causal=True) - fft_conv(x, taps, causal=True)
    assert float(theirs[..., :-1].abs().max()) > 1e-2
    assert float(ours[..., :-1].abs().max()) < 1e-5


def test_they_have_another_centre_on_a_circle_for_an_even_number_of_taps() -> None:
    x, taps = torch.randn(1, 2, 9), torch.zeros(1, 2, 6)
    taps[..., 3] = 1
    agrees(fftconv1d_fp32_bhl(x, taps), x)
    assert relative_error(circular_fftconv1d_fp32_bhl(x, taps), x) > 0.1
    for boundary in ("zero", "circular"):
        agrees(fft_conv(x, taps, boundary=boundary), x)


def test_they_halve_the_reach_of_a_causal_filter_of_half_extent() -> None:
    other = peer.build(peer.ckconv(32, 1, is_causal=True, grid_type="single"))
    x = torch.zeros(1, 32, CHANNELS)
    x[:, 0] = 1
    assert float((other(x) - other(torch.zeros_like(x)))[:, 17:].abs().max()) < 1e-6
    ours = instantiate(long(32, 1, causal=True, modulation_cfg=None))
    assert float(ours.convolve(x)[:, 17:].abs().min()) > 0


def test_they_fail_in_a_16_bit_type() -> None:
    other = peer.build(peer.ckconv(6, 2)).bfloat16()
    x = torch.randn(2, 6, 6, CHANNELS).bfloat16()
    with pytest.raises(AssertionError):
        other(x)
    assert instantiate(long(6, 2)).bfloat16().convolve(x).dtype == torch.bfloat16


def test_they_make_the_filter_anew_in_every_call_of_eval_mode() -> None:
    other, calls = peer.build(peer.ckconv(6, 2)), []
    model = loaded(instantiate(long(6, 2)), other)
    other.kernel.register_forward_hook(lambda *_: calls.append("theirs"))
    model.filter.register_forward_hook(lambda *_: calls.append("ours"))
    x = torch.randn(1, 6, 6, CHANNELS)
    with torch.inference_mode():
        for _ in range(3):
            agrees(model.convolve(x), other(x))
    assert calls.count("theirs") == 3
    assert calls.count("ours") == 1
