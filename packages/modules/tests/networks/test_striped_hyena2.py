"""Sizes, initial values and refusals of the network."""

import copy
import math

import pytest
import torch

from packages.modules.tests.support import TINY, golden_model, golden_run, random_ids
from subquad.lazy_config import instantiate
from subquad.modules import STRIPED_HYENA2_PRESETS, ConfigurationError, StripedHyena2, striped_hyena2_preset
from tools.testing.oracle import assert_as_exact_as, assert_close, relative_error

BILLIONS = {
    "1b_base": 1.1080,
    "7b_base": 6.4811,
    "7b_262k": 6.4811,
    "7b_microviridae": 6.4811,
    "7b": 6.5817,
    "20b": 19.7388,
    "40b_base": 40.3311,
    "40b": 41.1176,
}
# MiB per sequence, all float32, then with 16-bit rings beside float32 modal states; key-value bytes per token.
STATE = {
    "1b_base": (8.56, 4.69, 30_720),
    "7b": (23.48, 12.87, 81_920),
    "20b": (36.53, 20.02, 98_304),
    "40b": (73.06, 40.03, 262_144),
}
SHORT = (0, 4, 7, 11, 14, 18, 21, 25, 28, 32, 36, 39, 43, 46)
ATTENTION = {
    "1b_base": (3, 10, 17, 24),
    "7b": (3, 10, 17, 24, 31),
    "20b": (3, 10, 17),
    "40b": (3, 10, 17, 24, 31, 35, 42, 49),
}
COUNTS = {"1b_base": 7, "7b": 9, "20b": 7, "40b": 14}  # of short layers; a medium and a long one follow each


def on_meta(name: str) -> StripedHyena2:
    return instantiate(striped_hyena2_preset(name), device="meta", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", BILLIONS)
def test_published_sizes_have_the_published_number_of_parameters(name: str) -> None:
    assert round(sum(p.numel() for p in on_meta(name).parameters()) / 1e9, 4) == BILLIONS[name]


def test_every_size_is_either_published_or_small() -> None:
    assert set(STRIPED_HYENA2_PRESETS) - set(BILLIONS) == {"tiny", "small"}
    for name in BILLIONS:
        assert STRIPED_HYENA2_PRESETS[name].published_name == f"evo2_{name}"


def test_the_small_size_has_about_a_million_parameters() -> None:
    model = instantiate(striped_hyena2_preset("small"))
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.3e6
    assert set(model.pattern) == set("SDH*")


@pytest.mark.parametrize("name", STATE)
def test_state_sizes_are_exact(name: str) -> None:
    model, (wide, narrow, per_token) = on_meta(name), STATE[name]
    for dtype, mebibytes in ((torch.float32, wide), (torch.bfloat16, narrow)):
        state = model.init_state(3, max_length=10, dtype=dtype)
        assert round(state.recurrent_nbytes / 3 / 2**20, 2) == mebibytes
        assert state.nbytes == state.recurrent_nbytes + state.key_value_nbytes + 3 * 8
    assert state.key_value_nbytes == 3 * 10 * per_token


@pytest.mark.parametrize("name", BILLIONS)
def test_every_layer_lies_where_the_published_one_does(name: str) -> None:
    size = name if name == "1b_base" else name.partition("_")[0]
    blocks = on_meta(name).blocks
    kinds = {
        letter: tuple(i for i, block in enumerate(blocks) if type(block.mixer).__name__ == kind)
        for letter, kind in zip("SDH*", ("HyenaShort", "HyenaMedium", "HyenaLong", "ProjectedAttention"), strict=True)
    }
    short = SHORT[: COUNTS[size]]
    medium, long = tuple(i + 1 for i in short), tuple(i + 2 for i in short)
    assert kinds == {"S": short, "D": medium, "H": long, "*": ATTENTION[size]}


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the published names and shapes for the tiny size, block by block."""
    shapes: dict[str, tuple[int, ...]] = {"embedding_layer.weight": (512, 64), "norm.scale": (64,)}
    of_every_block = {"pre_norm.scale": (64,), "post_norm.scale": (64,), "mlp.l1.weight": (96, 64)}
    of_every_block |= {"mlp.l2.weight": (96, 64), "mlp.l3.weight": (64, 96)}
    of_hyena = {"projections.weight": (192, 64), "filter.projection_taps": (192, 3)}
    of_hyena |= {"out_filter_dense.weight": (64, 64), "out_filter_dense.bias": (64,)}
    of_letter = {
        "S": of_hyena | {"filter.taps": (8, 7)},
        "D": of_hyena | {"filter.taps": (8, 128), "filter.D": (64,)},
        "H": of_hyena | {"filter.log_poles": (64, 16), "filter.residues": (64, 16), "filter.D": (64,)},
        "*": {
            "inner_mha_cls.Wqkv.weight": (192, 64),
            "inner_mha_cls.out_proj.weight": (64, 64),
            "inner_mha_cls.out_proj.bias": (64,),
            "inner_mha_cls.rotary_emb.inv_freq": (8,),
        },
    }
    for layer, letter in enumerate(TINY["pattern"]):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in (of_every_block | of_letter[letter]).items()}
    return shapes


def test_tensor_names_are_those_of_checkpoints() -> None:
    shapes = {name: tuple(value.shape) for name, value in StripedHyena2(**TINY).state_dict().items()}
    expected = expected_shapes()
    assert shapes == expected
    training = set(StripedHyena2(**TINY, filter_parameters="p_gamma").state_dict())
    assert training - set(expected) == {
        *(f"blocks.{layer}.filter.{name}" for layer in (2, 6) for name in ("p", "gamma")),
        *(f"blocks.{layer}.filter.decay" for layer in (1, 5)),
    }


def test_a_seed_gives_the_same_weights_in_every_type_and_both_filter_forms_agree() -> None:
    forms = {}
    for form in ("poles", "p_gamma"):
        single = StripedHyena2(**TINY, filter_parameters=form)
        double = StripedHyena2(**TINY, filter_parameters=form).double()
        single.reset_parameters(torch.Generator().manual_seed(3))
        double.reset_parameters(torch.Generator().manual_seed(3))
        for a, b in zip(single.parameters(), double.parameters(), strict=True):
            assert torch.equal(a, b.float())
        forms[form] = double
    ids = random_ids(1, 40)
    with torch.inference_mode():
        assert_close(forms["p_gamma"](ids), forms["poles"](ids), relative=1e-6)


def test_initial_values_have_the_stated_spread() -> None:
    model = StripedHyena2(**{**TINY, "hidden_size": 256, "inner_size": 512}, filter_parameters="p_gamma")
    model.reset_parameters(torch.Generator().manual_seed(0))
    values, depth = dict(model.named_parameters()), len(model.blocks)
    spreads = {
        "embedding_layer.weight": 0.02,
        "blocks.0.projections.weight": math.sqrt(2 / (5 * 256)),
        "blocks.3.inner_mha_cls.Wqkv.weight": math.sqrt(2 / (5 * 256)),
        "blocks.0.out_filter_dense.weight": 2 / (depth * 16),
        "blocks.3.inner_mha_cls.out_proj.weight": 2 / (depth * 16),
        "blocks.5.mlp.l3.weight": 2 / (depth * 16),
        "blocks.1.filter.taps": 1e-5 / math.sqrt(128),
        "blocks.2.filter.residues": 0.1 / 4,
        "blocks.0.filter.projection_taps": 1 / 3,
    }
    for name, spread in spreads.items():
        assert abs(float(values[name].detach().std()) / spread - 1) < 0.1, name
    poles = model.blocks[2].filter.poles().detach()
    assert -0.1 / math.e <= float(poles.min()) < float(poles.max()) <= -0.0099 / math.e
    decay = model.blocks[1].filter.decay
    assert_close(decay[:, -1], torch.exp(-torch.logspace(-2, 2, 8)), relative=1e-5)
    assert torch.equal(decay[:, 0], torch.ones(8))


def test_a_trained_form_never_grows_and_its_gradients_are_finite() -> None:
    model = StripedHyena2(**TINY, filter_parameters="p_gamma")
    loss = model(random_ids(2, 50)).float().logsumexp(-1).sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    model.blocks[2].filter.p.data.fill_(5.0)
    assert (model.blocks[2].filter.poles() < 0).all()


def test_the_norm_form_changes_little_and_only_the_first_block_has_gelu() -> None:
    vortex, standard = golden_model(torch.float64), golden_model(torch.float64, norm_form="standard")
    ids = golden_run("fp32")["ids"]
    with torch.inference_mode():
        assert 3e-6 < relative_error(standard(ids), vortex(ids)) < 5e-6
    assert [block.mlp.activation for block in vortex.blocks] == ["gelu", *["identity"] * 7]


def test_a_model_can_be_copied_and_its_output_has_its_type() -> None:
    model = StripedHyena2(**TINY, dtype=torch.bfloat16)
    twin, ids = copy.deepcopy(model), random_ids(1, 12)
    with torch.inference_mode():
        assert torch.equal(twin(ids), model(ids))
        assert model(ids).dtype == torch.bfloat16
        assert torch.equal(model.unembed(model.encode(ids)), model(ids))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pattern": "SDX*"}, "pattern is 'SDX\\*'; it takes one or more of the letters S, D, H and \\*"),
        ({"pattern": ""}, "pattern is ''"),
        ({"num_heads": 5}, "64 channels cannot be shared by 5 heads"),
        ({"filter_groups": 7}, "64 channels cannot share 7 filters evenly"),
        ({"inner_size": 0}, "inner_size 0 and vocab_size 512 must be positive"),
        ({"short_filter_length": 1}, "filter lengths are 1 and 3; each must be at least 2"),
        ({"state_size": 0}, "state_size 0"),
        ({"rotary_scale": 0.0}, "rotary base 10000.0 and scale 0.0 must be positive"),
        ({"rotary_base": math.nan}, "rotary base nan and scale 1.0 must be positive"),
        ({"rotary_scale": math.inf}, "rotary base 10000.0 and scale inf must be positive"),
        ({"num_heads": 64}, "head_size is 1; rotary embedding needs a positive even number"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(change: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        StripedHyena2(**{**TINY, **change})


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="preset is '8b'; accepted are tiny, small, 1b_base"):
        striped_hyena2_preset("8b")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_wide_logits_are_the_products_of_the_vectors_that_were_made(dtype):
    torch.manual_seed(0)
    model = StripedHyena2(**TINY).to(dtype)
    with torch.no_grad():
        hidden = torch.randn(2, 5, TINY["hidden_size"]).to(dtype)
        model.embedding_layer.weight.copy_(torch.randn_like(model.embedding_layer.weight))
        wide, narrow = model.unembed_wide(hidden), model.unembed(hidden)
        expected = hidden.double() @ model.embedding_layer.weight.double().t()
    assert wide.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert narrow.dtype == dtype
    assert_as_exact_as("wide", expected, expected.to(wide.dtype), wide)
    assert torch.equal(wide, narrow) == (dtype in (torch.float32, torch.float64))
