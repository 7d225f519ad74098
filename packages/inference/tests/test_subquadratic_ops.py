"""The fused operators in forward passes, scoring and prefill, and the flag that asks for them."""

import pytest
import torch
from torch import Tensor

import subquad.modules.mixers.fir as fir
import subquad.modules.mixers.modal as modal
from packages.inference.tests.commands.running import done, lines, run
from packages.inference.tests.conftest import TINY, tiny_network
from packages.inference.tests.trained_network import motif, trained_network
from subquad.inference import ByteTokenizer, Engine, GenerationOptions, save_checkpoint
from subquad.inference.errors import InvalidOption
from subquad.lazy_config import LazyConfig
from subquad.modules import STRIPED_HYENA2_PRESETS, StripedHyena2
from tools.testing.oracle import assert_close, relative_error

PROMPTS = ["A", "AC", "ACGTTG", "ACGTTGC", "GATTACA" * 18 + "G", "TTAGGG" * 22, "|d__Bacteria|" + "ACGT" * 50]
FUSED = ("gated_conv", "gated_conv_with_state")
FUSED_MODAL = ("gated_modal_conv", "gated_modal_conv_with_state")
# How much further from float64 the fused operators may be than their parts one by one in bfloat16, which round more.
BF16_ALLOWANCE = 1.05


@pytest.fixture
def fused_calls(monkeypatch):
    """Counts the calls of fused operators."""
    calls = []

    def counting(name, operator):
        def call(*arguments, **options):
            calls.append(name)
            return operator(*arguments, **options)

        return call

    for module, names in ((fir, FUSED), (modal, FUSED_MODAL)):
        for name in names:
            monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return calls


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(path, tiny_network(), LazyConfig(StripedHyena2)(**TINY), metadata={"max_sequence_tokens": 1024})
    return path


def small_1b(dtype: torch.dtype) -> StripedHyena2:
    """The layers of 1b_base with few channels, and weights that matter."""
    pattern = STRIPED_HYENA2_PRESETS["1b_base"].pattern
    torch.manual_seed(0)
    network = StripedHyena2(pattern=pattern, hidden_size=64, num_heads=4, inner_size=96, filter_groups=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("taps"):
                width = parameter.shape[-1] ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / width)
            elif name.endswith(".weight") and "embedding" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return network.to(dtype).eval()


def dna(length: int) -> Tensor:
    draw = torch.randint(0, 4, (1, length), generator=torch.Generator().manual_seed(1))
    return torch.tensor(list(b"ACGT"))[draw]


@torch.inference_mode()
@pytest.mark.parametrize(
    ("dtype", "choice"),
    [
        pytest.param(torch.bfloat16, True, id="1b-8k-bf16-subquadratic-ops-flash"),
        pytest.param(torch.bfloat16, False, id="1b-8k-bf16-flash"),
        pytest.param(torch.float32, True, id="1b-8k-fp32-subquadratic-ops-flash"),
    ],
)
def test_forward_manual(dtype, choice, fused_calls):
    """The layers of the 1b model in a plain forward, against float64 and against the parts one by one."""
    ids, network = dna(300), small_1b(dtype)
    exact_network = small_1b(dtype).to(torch.float64)  # the same rounded weights
    exact_network.use_subquadratic_ops = False
    exact = exact_network(ids)
    network.use_subquadratic_ops = False
    baseline = network(ids)
    assert fused_calls == []
    network.use_subquadratic_ops = choice
    logits = network(ids)
    assert (fused_calls.count("gated_conv"), fused_calls.count("gated_modal_conv")) == ((14, 7) if choice else (0, 0))
    if dtype == torch.float32:
        assert_close(logits, exact, relative=5e-6)
    assert relative_error(logits, exact) <= BF16_ALLOWANCE * relative_error(baseline, exact) + 1e-6
    agreement = (logits.argmax(-1) == exact.argmax(-1)).double().mean()
    assert agreement >= (baseline.argmax(-1) == exact.argmax(-1)).double().mean() - 0.05


@pytest.mark.parametrize("prefill_chunk", [7, 128, 2048])
def test_subquadratic_ops_matches_baseline(prefill_chunk, fused_calls):
    """Greedy tokens, scores and embeddings are the same with the fused operators and without."""
    found = {}
    for choice in (None, True, False):
        fused_calls.clear()
        engine = Engine(
            tiny_network(),
            ByteTokenizer(),
            max_running=4,
            prefill_chunk=prefill_chunk,
            max_sequence_tokens=1024,
            use_subquadratic_ops=choice,
        )
        assert engine.use_subquadratic_ops is choice
        results = engine.generate(PROMPTS, GenerationOptions(max_new_tokens=24, return_logprobs=True))
        chunks = sum(-(-len(prompt) // prefill_chunk) for prompt in PROMPTS)
        assert len(fused_calls) == (0 if choice is False else 6 * chunks), "prefill alone calls them, a step never does"
        found[choice] = (
            [result.ids for result in results],
            [p for result in results for p in result.logprobs or []],
            engine.score(PROMPTS[2:], batch_size=3),
            engine.embed(PROMPTS[2:], ["blocks.6"])[-1]["blocks.6"],
        )
        assert choice is not False or fused_calls == []
    for other in (None, True):
        assert found[other][0] == found[False][0]
        assert found[other][1] == pytest.approx(found[False][1], abs=1e-4)
        assert found[other][2] == pytest.approx(found[False][2], rel=1e-5)
        assert_close(found[other][3], found[False][3], relative=1e-5)


def test_a_trained_network_in_bfloat16_says_the_same_with_the_flag_and_without(fused_calls):
    """Ties of random weights prove nothing in 16 bits; a network that knows what comes next has none."""
    network, repeats = trained_network().to(torch.bfloat16), motif() * 4
    places = ((0, 61), (5, 90), (17, 127), (30, 128), (44, 131))
    prompts = [repeats[start : start + length] for start, length in places]
    found = {}
    for choice in (True, False):
        fused_calls.clear()
        engine = Engine(network, ByteTokenizer(), max_running=2, prefill_chunk=100, use_subquadratic_ops=choice)
        found[choice] = engine.generate(prompts, GenerationOptions(max_new_tokens=40))
        assert bool(fused_calls) is choice
    assert [result.ids for result in found[True]] == [result.ids for result in found[False]]
    right = [
        sum(a == b for a, b in zip(result.text, (repeats * 2)[start + length :], strict=False))
        for result, (start, length) in zip(found[True], places, strict=True)
    ]
    assert min(right) >= 30, f"{right} of 40 bases are those of the motif"


def test_a_second_request_after_the_first_is_what_it_is_alone():
    for choice in (True, False):
        engine = Engine(tiny_network(), ByteTokenizer(), max_running=1, use_subquadratic_ops=choice)
        options = GenerationOptions(max_new_tokens=12)
        together = engine.generate([PROMPTS[-1], "ACG", PROMPTS[4]], options)
        for prompt, result in zip([PROMPTS[-1], "ACG", PROMPTS[4]], together, strict=True):
            fresh = Engine(tiny_network(), ByteTokenizer(), max_running=1, use_subquadratic_ops=choice)
            assert fresh.generate([prompt], options)[0].ids == result.ids


def test_an_unflipped_medium_filter_gives_other_tokens(monkeypatch):
    """Shows that the comparison above would notice a filter the wrong way round."""
    plain = fir.gated_conv_with_state

    def unflipped(z, projection_taps, mixer_taps, **options):
        taps = mixer_taps.flip(-1) if mixer_taps.shape[1] == 128 else mixer_taps
        return plain(z, projection_taps, taps, **options)

    def generated(choice):
        engine = Engine(tiny_network(), ByteTokenizer(), use_subquadratic_ops=choice)
        return [result.ids for result in engine.generate(PROMPTS, GenerationOptions(max_new_tokens=24))]

    expected = generated(False)
    assert generated(True) == expected
    monkeypatch.setattr(fir, "gated_conv_with_state", unflipped)
    assert generated(True) != expected


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "CKPT", "-p", "ACGTTGCA", "--max-new-tokens", 8],
        ["score", "CKPT", "IN"],
        ["embed", "CKPT", "IN", "-l", "-1"],
        ["variants", "CKPT", "VAR", "-r", "IN", "--window", 12],
    ],
)
def test_every_command_takes_the_flag(checkpoint, tmp_path, fused_calls, command):
    (tmp_path / "in.fa").write_text(">a\nACGTTGCAACGTGGCATTAC\n")
    (tmp_path / "v.tsv").write_text("chrom\tpos\tref\talt\na\t8\tA\tT\n")
    places = {"CKPT": checkpoint, "IN": tmp_path / "in.fa", "VAR": tmp_path / "v.tsv"}
    words = [places.get(str(word), word) for word in command]
    rows = {}
    for flag in ("--use-subquadratic-ops", "--no-use-subquadratic-ops"):
        fused_calls.clear()
        rows[flag] = lines(done(*words, flag, "--dtype", "float64").stdout)
        assert bool(fused_calls) == (flag == "--use-subquadratic-ops")
    one, other = rows.values()
    assert [set(row) for row in one] == [set(row) for row in other]
    for row, partner in zip(one, other, strict=True):
        for name, value in row.items():
            expected = partner[name]
            assert value == (expected if isinstance(expected, str | None) else pytest.approx(expected, rel=1e-9))


def test_the_plot_command_takes_the_flag(checkpoint, tmp_path, fused_calls):
    text = ">a\nACGTTGCAACGT\n"
    for flag, expected in (("--no-use-subquadratic-ops", False), ("--use-subquadratic-ops", True)):
        out = tmp_path / f"{expected}.bedgraph"
        result = run("plot", checkpoint, "-", "-o", out, flag, "--dtype", "float64", stdin=text)
        assert result.exit_code == 0, result.output
        assert bool(fused_calls) == expected
    assert (tmp_path / "True.bedgraph").read_text() == (tmp_path / "False.bedgraph").read_text()


def test_demanding_what_does_not_run_is_one_line_with_the_reason(checkpoint, monkeypatch):
    refusal = "no fused kernel takes it on cuda:0: triton: dtype float64"
    monkeypatch.setattr("subquad.modules.blocks.striped_hyena2.fused_refusal", lambda *_: refusal)
    with pytest.raises(
        InvalidOption, match=rf"use_subquadratic_ops is True; accepted: None or False here; .*{refusal}"
    ):
        Engine(tiny_network(), ByteTokenizer(), use_subquadratic_ops=True)
    result = run("score", checkpoint, "-", "--use-subquadratic-ops", stdin=">a\nACGT\n")
    assert result.exit_code == 2
    assert "HyenaShort cannot run fused" in result.stderr
    assert result.stderr.count("\n") == 1
    Engine(tiny_network(), ByteTokenizer())


def test_a_network_without_the_choice_refuses_the_flag():
    with pytest.raises(InvalidOption, match="accepted: None, since a Linear has no such choice"):
        Engine(torch.nn.Linear(1, 1), ByteTokenizer(), use_subquadratic_ops=False)
