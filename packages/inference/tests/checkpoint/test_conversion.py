"""Tests of conversion between native, Vortex, Savanna and Megatron-Bridge checkpoints."""

import dataclasses
import gc
import json
import pickle
import random
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from packages.inference.tests.checkpoint.foreign_checkpoints import (
    PATTERN,
    RUN_CONFIG,
    mbridge_tensors,
    savanna_tensors,
    write_mbridge,
)
from packages.inference.tests.conftest import TINY
from subquad.inference import Engine, NucleotideTokenizer, load_checkpoint, save_checkpoint
from subquad.inference.checkpoint import convert_checkpoint, source_config
from subquad.inference.errors import (
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFound,
    CheckpointTensorError,
    InvalidOption,
)
from subquad.lazy_config import LazyConfig, instantiate
from subquad.modules import StripedHyena2
from tools.testing.oracle import assert_close

DATA = Path(__file__).parents[1] / "data"


def tiny_config(**changes):
    return LazyConfig(StripedHyena2)(**{**TINY, **changes})


def convert(source, target, read, write, **options):
    if read != "native":
        options.setdefault("config", tiny_config())
    return convert_checkpoint(source, target, read=read, write=write, **options)


def native_tensors(folder):
    return load_file(folder / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def savanna(tmp_path):
    path = tmp_path / "savanna.pt"
    torch.save({"module": {f"module.{n}": t for n, t in savanna_tensors(medium_taps=160).items()}}, path)
    return path


@pytest.fixture
def mbridge(tmp_path):
    tensors = mbridge_tensors(savanna_tensors(medium_taps=160))
    write_mbridge(tmp_path / "mbridge", {**tensors, "optimizer.state.exp_avg.x": torch.ones(2)})
    return tmp_path / "mbridge"


def test_a_savanna_checkpoint_keeps_its_training_parameters(savanna, tmp_path):
    report = convert(savanna, tmp_path / "native", "savanna", "native")
    stored, source = native_tensors(tmp_path / "native"), savanna_tensors(medium_taps=160)
    mixer = "sequential.4.mixer.mixer."
    assert torch.equal(stored["blocks.2.filter.p"], source[mixer + "filter.p"])
    assert torch.equal(stored["blocks.2.filter.gamma"], source[mixer + "filter.gamma"])
    assert torch.equal(stored["blocks.2.filter.residues"], source[mixer + "filter.R"])
    assert torch.equal(stored["blocks.2.filter.D"], source[mixer + "conv_bias"])
    mixer = "sequential.3.mixer.mixer."
    assert torch.equal(stored["blocks.1.filter.h"], source[mixer + "filter.h"][:, None, :128])
    assert torch.equal(stored["blocks.1.filter.decay"], source[mixer + "filter.decay"][:, :128])
    projection = source["sequential.3.mixer.hyena_proj_conv.short_conv_weight"]
    assert torch.equal(stored["blocks.1.filter.short_filter_weight"], projection[:, None])
    assert torch.equal(
        stored["blocks.3.inner_mha_cls.Wqkv.weight"], source["sequential.5.mixer.dense_projection.weight"]
    )
    assert torch.equal(stored["blocks.0.mlp.l2.weight"], source["sequential.2.mlp.w2.weight"])
    how = {row.source: row.how for row in report}
    assert how["sequential.3.mixer.mixer.filter.decay"] == "first 128 of 160 taps"
    assert how["sequential.4.mixer.mixer.filter.t"] == "left out: made anew"
    assert how["sequential.5.mixer.rotary_emb.inv_freq"] == "left out: made anew"
    assert load_checkpoint(tmp_path / "native").metadata["filter_parameters"] == "p_gamma"


@pytest.mark.parametrize("fused_norms", [True, False])
def test_an_mbridge_checkpoint_gives_what_its_savanna_one_gives(savanna, tmp_path, fused_norms):
    tensors = mbridge_tensors(savanna_tensors(medium_taps=160), fused_norms=fused_norms)
    iteration = write_mbridge(tmp_path / "mbridge", tensors)
    convert(savanna, tmp_path / "one", "savanna", "native")
    for number, source in enumerate((tmp_path / "mbridge", iteration)):
        report = convert(source, tmp_path / f"two{number}", "mbridge", "native")
        assert same(native_tensors(tmp_path / "one"), native_tensors(tmp_path / f"two{number}"))
    halves = [row for row in report if row.source == "decoder.layers.0.mlp.linear_fc1.weight"]
    assert [(row.target, row.how) for row in halves] == [
        ("blocks.0.mlp.l1.weight", "first half of the rows"),
        ("blocks.0.mlp.l2.weight", "second half of the rows"),
    ]


def test_the_mapping_of_mbridge_names_is_one_to_one_on_every_kind_of_layer(mbridge, tmp_path):
    report = convert(mbridge, tmp_path / "native", "mbridge", "native")
    targets = [row.target for row in report if row.target]
    assert len(targets) == len(set(targets)) == len(native_tensors(tmp_path / "native"))
    sources = [(row.source, row.how) for row in report if row.source.startswith("decoder")]
    assert len(sources) == len(set(sources))
    assert set(PATTERN) == set("SDH*")


def test_savanna_there_and_back_is_bitwise_the_same(tmp_path):
    torch.save({"module": savanna_tensors()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "native", "savanna", "native")
    convert(tmp_path / "native", tmp_path / "b.pt", "native", "savanna")
    made = torch.load(tmp_path / "b.pt", weights_only=True)["module"]
    kept = {n: t for n, t in savanna_tensors().items() if not n.endswith((".t", "inv_freq"))}
    assert same(made, kept)
    convert(tmp_path / "b.pt", tmp_path / "again", "savanna", "native")
    assert same(native_tensors(tmp_path / "native"), native_tensors(tmp_path / "again"))


@pytest.mark.parametrize("route", ["savanna", "mbridge"])
def test_a_vortex_file_is_the_same_made_directly_or_through_the_native_form(savanna, mbridge, tmp_path, route):
    source = savanna if route == "savanna" else mbridge
    convert(source, tmp_path / "direct.pt", route, "vortex")
    convert(source, tmp_path / "native", route, "native")
    convert(tmp_path / "native", tmp_path / "indirect.pt", "native", "vortex")
    direct, indirect = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("direct", "indirect"))
    assert same(direct, indirect)
    source = savanna_tensors(medium_taps=160)
    mixer = "sequential.4.mixer.mixer.filter."
    expected = -torch.exp(source[mixer + "p"]) * torch.exp(source[mixer + "gamma"])
    assert torch.equal(direct["blocks.2.filter.log_poles"], expected[..., None])
    mixer = "sequential.3.mixer.mixer.filter."
    assert torch.equal(direct["blocks.1.filter.h"], (source[mixer + "h"] * source[mixer + "decay"])[:, None, :128])


def test_vortex_to_savanna_is_lossy_in_its_parameters_and_not_in_its_filters(savanna, tmp_path):
    convert(savanna, tmp_path / "a.pt", "savanna", "vortex")
    report = convert(tmp_path / "a.pt", tmp_path / "b.pt", "vortex", "savanna")
    how = {(row.source, row.target): row.how for row in report}
    mixer = "sequential.4.mixer.mixer.filter."
    assert how["blocks.2.filter.log_poles", mixer + "p"] == "lossy: p = log(-log_poles), gamma = 0"
    assert how["blocks.2.filter.log_poles", mixer + "gamma"] == "lossy: gamma = 0"
    assert "lossy: decay = 1" in how["blocks.1.filter.h", "sequential.3.mixer.mixer.filter.decay"]
    convert(tmp_path / "b.pt", tmp_path / "c.pt", "savanna", "vortex")
    first, again = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in "ac")
    assert torch.equal(first["blocks.1.filter.h"], again["blocks.1.filter.h"])
    assert_close(again["blocks.2.filter.log_poles"], first["blocks.2.filter.log_poles"], 5e-7)


def test_a_pole_that_does_not_decay_has_no_training_parameters(savanna, tmp_path):
    convert(savanna, tmp_path / "a.pt", "savanna", "vortex")
    tensors = torch.load(tmp_path / "a.pt", weights_only=True)
    tensors["blocks.2.filter.log_poles"][0, 0] = 0.0
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(CheckpointTensorError, match=r"blocks\.2\.filter\.log_poles has 1 poles that are 0 or more"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", "vortex", "savanna")
    assert not (tmp_path / "b.pt").exists()
    assert not list(tmp_path.glob(".*"))


def test_16_bit_weights_keep_their_type_and_filters_are_widened(tmp_path):
    source = savanna_tensors(dtype=torch.bfloat16)
    torch.save({"module": source}, tmp_path / "a.pt")
    report = convert(tmp_path / "a.pt", tmp_path / "native", "savanna", "native")
    stored = native_tensors(tmp_path / "native")
    assert stored["blocks.0.mlp.l1.weight"].dtype == torch.bfloat16
    assert torch.equal(stored["blocks.2.filter.p"], source["sequential.4.mixer.mixer.filter.p"].float())
    how = {row.source: row.how for row in report}
    assert how["sequential.4.mixer.mixer.filter.p"] == "bfloat16 to float32"


@pytest.mark.parametrize(("norm", "fits"), [(10, True), (11, True), (12, False)])
def test_the_final_norm_of_a_savanna_file_is_two_or_three_places_after_the_blocks(tmp_path, norm, fits):
    torch.save({"module": savanna_tensors(norm=norm)}, tmp_path / "a.pt")
    if fits:
        convert(tmp_path / "a.pt", tmp_path / "native", "savanna", "native")
        assert torch.equal(
            native_tensors(tmp_path / "native")["norm.scale"], savanna_tensors()["sequential.11.norm.weight"]
        )
    else:
        with pytest.raises(CheckpointTensorError, match=r"final norms are at \[12\]; 8 layers have one, at seq.*11"):
            convert(tmp_path / "a.pt", tmp_path / "native", "savanna", "native")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda t: t.pop("sequential.2.mlp.w1.weight"),
            r"sequential\.2\.mlp\.w1\.weight is missing \(it becomes blocks",
        ),
        (
            lambda t: t.update({"sequential.2.mlp.w1.weight": torch.ones(3, 64)}),
            r"mlp\.w1\.weight is \[3, 64\], the config asks for \[96, 64\]",
        ),
        (lambda t: t.update({"sequential.2.mixer.mixer.conv_bias": torch.ones(8)}), "biases on short filters belong"),
        (lambda t: t.update({"sequential.99.x": torch.ones(8)}), r"sequential\.99\.x is unknown to the config"),
        (
            lambda t: t.update({"sequential.2.mixer.mixer.short_conv.short_conv_weight": torch.ones(8, 1, 9)}),
            r"short_conv_weight is \[8, 1, 9\], the config asks for \[8, 1, 7\]",
        ),
        (lambda t: t.update({"sequential.2.mlp.w1.weight": 1.0}), "w1.weight is a float; accepted: dense"),
    ],
)
def test_a_savanna_tensor_that_does_not_fit_is_named(tmp_path, change, text):
    tensors = savanna_tensors()
    change(tensors)
    torch.save({"module": tensors}, tmp_path / "a.pt")
    with pytest.raises(CheckpointTensorError, match=text):
        convert(tmp_path / "a.pt", tmp_path / "native", "savanna", "native")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt"]


def test_an_mbridge_checkpoint_describes_its_network(mbridge, tmp_path):
    config, metadata = source_config(mbridge, "mbridge", None)
    assert (config.pattern, config.inner_size, config.filter_groups) == (PATTERN, 96, 8)
    assert metadata == {"max_sequence_tokens": 4096}
    convert(mbridge, tmp_path / "native", "mbridge", "native", config=config, metadata=metadata)
    assert load_checkpoint(tmp_path / "native").metadata["max_sequence_tokens"] == 4096
    file = mbridge / "iter_0000001" / "run_config.yaml"
    for text, message in (
        ("model: {}", r"model\.hybrid_override_pattern is None; accepted: a text; --config"),
        ("x: 1", "has no model section; name the network with --config"),
        ("!!python/object/apply:os.mkdir [x]", "is no plain YAML"),
        (RUN_CONFIG.replace("ffn_hidden_size: 96", ""), r"model\.ffn_hidden_size is None; accepted: a positive number"),
    ):
        file.write_text(text)
        with pytest.raises(CheckpointConfigError, match=message):
            source_config(mbridge, "mbridge", None)
    with pytest.raises(InvalidOption, match="a Vortex YAML file, a native checkpoint of the same network, or a size"):
        source_config(mbridge, "savanna", None)


@pytest.mark.parametrize("form", ["vortex", "savanna"])
@pytest.mark.parametrize("named", ["", "config.yaml"])
def test_a_native_checkpoint_names_the_network_of_what_was_made_of_it(form, named, tmp_path):
    torch.manual_seed(3)
    config = tiny_config(filter_parameters="p_gamma")
    native = tmp_path / "native"
    save_checkpoint(native, instantiate(config), config, metadata={"max_sequence_tokens": 512})
    convert(native, tmp_path / "other.pt", "native", form)
    network, metadata = source_config(tmp_path / "other.pt", form, str(native / named))
    assert metadata == {"max_sequence_tokens": 512}
    convert(tmp_path / "other.pt", tmp_path / "back", form, "native", config=network, metadata=metadata)
    ids = torch.tensor([list(b"ACGTTGCAACGT")])
    logits = [load_checkpoint(folder, device="cpu").model(ids) for folder in (native, tmp_path / "back")]
    assert_close(logits[1], logits[0], 1e-6)


def test_a_config_that_builds_something_else_names_no_network(tmp_path):
    for target, message in (
        ("subquad.modules:RMSNorm", "builds RMSNorm; accepted: StripedHyena2"),
        ("os:getcwd", "os:getcwd"),
    ):
        (tmp_path / "config.yaml").write_text(f"_target_: {target}\n")
        with pytest.raises(CheckpointConfigError, match=message):
            source_config(tmp_path / "x.pt", "vortex", str(tmp_path))


def test_a_lora_checkpoint_is_refused_with_the_way_out(tmp_path):
    run_config = RUN_CONFIG.replace("peft: null", "peft:\n  pretrained_checkpoint: base/7b")
    adapters = {"decoder.layers.0.mixer.dense.adapter.linear_in.weight": torch.ones(4, 64)}
    write_mbridge(tmp_path / "lora", adapters, run_config=run_config)
    with pytest.raises(
        CheckpointTensorError, match=r"is a LoRA checkpoint with 1 adapter .* into its base base/7b first"
    ):
        convert(tmp_path / "lora", tmp_path / "native", "mbridge", "native")


class Malicious:
    """A pickle that would start a thread when it is read."""

    def __reduce__(self):
        return threading.Thread, ()


def test_metadata_that_names_anything_but_torchs_own_classes_is_refused(mbridge, tmp_path):
    file = mbridge / "iter_0000001" / ".metadata"
    file.write_bytes(pickle.dumps({"state_dict_metadata": Malicious()}))
    with pytest.raises(CheckpointError, match=r"\.metadata: names threading\.Thread, which is no data"):
        convert(mbridge, tmp_path / "native", "mbridge", "native")
    file.write_bytes(pickle.dumps({"state_dict_metadata": {}}))
    with pytest.raises(CheckpointError, match="is no metadata of a distributed checkpoint"):
        convert(mbridge, tmp_path / "native", "mbridge", "native")
    file.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="is no pickle of plain data"):
        convert(mbridge, tmp_path / "native", "mbridge", "native")


def test_a_malicious_piece_of_a_distributed_checkpoint_is_refused(mbridge, tmp_path):
    iteration = mbridge / "iter_0000001"
    file, described = next(iteration.glob("*.distcp")), iteration / ".metadata"
    torch.save(Malicious(), tmp_path / "evil")
    data, evil = file.read_bytes(), (tmp_path / "evil").read_bytes()
    file.write_bytes(data + evil)
    metadata = pickle.loads(described.read_bytes())
    index = next(i for i in metadata.storage_data if i.fqn == "decoder.final_norm.weight")
    info = metadata.storage_data[index]
    metadata.storage_data[index] = dataclasses.replace(info, offset=len(data), length=len(evil))
    described.write_bytes(pickle.dumps(metadata))
    with pytest.raises(
        CheckpointError, match=r"piece of decoder\.final_norm\.weight at byte \d+ is no tensor: Weights only"
    ):
        convert(mbridge, tmp_path / "native", "mbridge", "native")
    assert not (tmp_path / "native").exists()


def test_a_distributed_checkpoint_that_is_not_whole_is_refused(mbridge, tmp_path):
    iteration = mbridge / "iter_0000001"
    file = next(iteration.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="the file is truncated"):
        convert(mbridge, tmp_path / "native", "mbridge", "native")
    file.unlink()
    with pytest.raises(CheckpointNotFound, match=r"distcp is missing; \.metadata says that it holds"):
        convert(mbridge, tmp_path / "native", "mbridge", "native")
    shutil.rmtree(iteration)
    with pytest.raises(CheckpointNotFound, match=r"\.metadata is missing"):
        convert(mbridge, tmp_path / "native", "mbridge", "native")
    (mbridge / "latest_checkpointed_iteration.txt").write_text("../evil")
    with pytest.raises(CheckpointError, match="accepted: the number of an iteration"):
        convert(mbridge, tmp_path / "native", "mbridge", "native")
    with pytest.raises(CheckpointNotFound, match="is no directory"):
        convert(tmp_path / "nowhere", tmp_path / "native", "mbridge", "native")


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_description_is_an_error_of_ours_or_none(mbridge, tmp_path, seed):
    described, draw = mbridge / "iter_0000001" / ".metadata", random.Random(seed)
    whole = described.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        at = draw.randrange(len(whole))
        damaged[at : at + draw.choice([0, 1, 8])] = draw.randbytes(draw.choice([0, 1, 4]))
        described.write_bytes(damaged)
        with suppress(CheckpointError):
            convert(mbridge, tmp_path / "native", "mbridge", "native", overwrite=True)


def test_a_damaged_list_of_tensors_is_an_error_of_ours_or_none(savanna, tmp_path):
    whole, draw = savanna.read_bytes(), random.Random(0)
    end = whole.index(b"archive/byteorder") if b"archive/byteorder" in whole else 8_000
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(end)] = draw.randrange(256)
        savanna.write_bytes(damaged)
        with suppress(CheckpointError):
            convert(savanna, tmp_path / "native", "savanna", "native", overwrite=True)


def test_progress_ends_with_everything_written(savanna, tmp_path):
    seen = []
    convert(savanna, tmp_path / "native", "savanna", "native", on_progress=lambda *both: seen.append(both))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_interrupted_conversion_leaves_nothing(savanna, tmp_path):
    def interrupt(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    for write, target in (("native", tmp_path / "native"), ("vortex", tmp_path / "out.pt")):
        with pytest.raises(KeyboardInterrupt):
            convert(savanna, target, "savanna", write, on_progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["savanna.pt"]


@pytest.mark.usefixtures("unchecked_types")
def test_formats_and_config_must_fit_each_other(savanna, tmp_path):
    with pytest.raises(InvalidOption, match="two different formats"):
        convert(savanna, tmp_path / "x.pt", "savanna", "savanna")
    with pytest.raises(InvalidOption, match="write is 'mbridge'"):
        convert(savanna, tmp_path / "x", "savanna", "mbridge")
    with pytest.raises(InvalidOption, match="a config of the network"):
        convert_checkpoint(savanna, tmp_path / "x", read="savanna", write="native")
    torch.save({"weights": {}}, savanna)
    with pytest.raises(CheckpointError, match="has no dictionary 'module'"):
        convert(savanna, tmp_path / "x", "savanna", "native")


def test_the_report_of_a_conversion_is_json_by_row(mbridge, tmp_path):
    report = convert(mbridge, tmp_path / "native", "mbridge", "native")
    rows = [json.loads(json.dumps(row._asdict())) for row in report]
    assert {"source": "decoder.final_norm.weight", "target": "norm.scale", "how": "same"} in rows


def test_the_reference_engine_answers_the_same_after_export(savanna, tmp_path):
    golden = load_file(DATA / "vtx_of_savanna.safetensors")
    convert(savanna, tmp_path / "exported.pt", "savanna", "vortex")
    convert(tmp_path / "exported.pt", tmp_path / "back", "vortex", "native")
    convert(savanna, tmp_path / "native", "savanna", "native")
    for name in ("back", "native"):
        with torch.inference_mode():
            logits = load_checkpoint(tmp_path / name, device="cpu").model(golden["ids"])
        assert_close(logits[:, ::25], golden["logits"], 5e-6)


def resident_memory():
    """Returns the bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


@pytest.mark.parametrize(
    ("read", "write"),
    [("vortex", "native"), ("native", "vortex"), ("mbridge", "vortex"), ("mbridge", "native")],
)
def test_memory_holds_a_few_tensors_and_not_the_file(tmp_path, read, write):
    config = tiny_config(pattern="S" * 12, hidden_size=512, inner_size=2048, filter_groups=8)
    if read == "mbridge":
        shapes = {}
        for index in range(12):
            layer = f"decoder.layers.{index}."
            shapes |= {
                layer + "mixer.dense_projection.layer_norm_weight": (512,),
                layer + "mlp.linear_fc1.layer_norm_weight": (512,),
                layer + "mixer.dense_projection.weight": (1536, 512),
                layer + "mixer.hyena_proj_conv.short_conv_weight": (1536, 3),
                layer + "mixer.mixer.short_conv.short_conv_weight": (8, 1, 7),
                layer + "mixer.dense.weight": (512, 512),
                layer + "mixer.dense.bias": (512,),
                layer + "mlp.linear_fc1.weight": (4096, 512),
                layer + "mlp.linear_fc2.weight": (512, 2048),
            }
        shapes |= {"embedding.word_embeddings.weight": (512, 512), "decoder.final_norm.weight": (512,)}
        tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
        write_mbridge(tmp_path / "mbridge", tensors)
        del tensors
    else:
        network = StripedHyena2(**{**TINY, "pattern": "S" * 12, "hidden_size": 512, "inner_size": 2048})
        save_checkpoint(tmp_path / "native", network, config)
        del network
        if read == "vortex":
            convert(tmp_path / "native", tmp_path / "vortex", "native", "vortex")
            shutil.rmtree(tmp_path / "native")
    gc.collect()
    before, peak, total = resident_memory(), 0, 0

    def watch(done, of):
        nonlocal peak, total
        peak, total = max(peak, resident_memory()), of

    convert(
        tmp_path / read,
        tmp_path / f"{write}.out",
        read,
        write,
        config=None if read == "native" else config,
        on_progress=watch,
    )
    assert total > 190e6
    assert peak - before < total / 4


def test_the_tokenizer_of_a_checkpoint_is_chosen_when_it_is_made(savanna, tmp_path):
    convert(savanna, tmp_path / "native", "savanna", "native", tokenizer="nucleotide")
    assert load_checkpoint(tmp_path / "native").tokenizer == NucleotideTokenizer(512)
    assert Engine.from_checkpoint(tmp_path / "native", device="cpu").tokenizer == NucleotideTokenizer(512)
    with pytest.raises(InvalidOption, match="tokenizer is 'bpe'"):
        convert(savanna, tmp_path / "other", "savanna", "native", tokenizer="bpe")
    assert not (tmp_path / "other").exists()
