"""Tests of reading and writing Vortex files."""

import json
import os

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from packages.inference.tests.conftest import TINY
from subquad.inference import load_checkpoint, save_checkpoint
from subquad.inference.checkpoint import convert_checkpoint, vortex_config
from subquad.inference.commands import register
from subquad.inference.errors import (
    CheckpointConfigError,
    CheckpointError,
    CheckpointExists,
    CheckpointNotFound,
    CheckpointTensorError,
    OutputError,
)
from subquad.lazy_config import LazyConfig, instantiate
from subquad.modules import STRIPED_HYENA2_PRESETS, StripedHyena2, striped_hyena2_preset
from tools.testing.oracle import assert_close

YAML = """
hcs_layer_idxs: [0, 4]
hcm_layer_idxs: [1, 5]
hcl_layer_idxs: [2, 6]
attn_layer_idxs: [3, 7]
num_layers: 8
hidden_size: 64
num_attention_heads: 4
inner_mlp_size: 96
hcs_filter_groups: 8
hcm_filter_groups: 8
hcs_filter_length: 7
hcm_filter_length: 128
short_filter_length: 3
state_size: 16
vocab_size: 512
eps: 1e-6
rotary_emb_base: 10000
use_interpolated_rotary_pos_emb: true
rotary_emb_scaling_factor: 128
proj_groups: 1
tie_embeddings: true
interleave: true
evo2_style_activations: true
max_seqlen: 2048
"""


def import_vortex(source, target, config, **options):
    return convert_checkpoint(source, target, read="vortex", write="native", config=config, **options)


def export_vortex(source, target, **options):
    return convert_checkpoint(source, target, read="native", write="vortex", **options)


@pytest.fixture
def native(network, tmp_path):
    save_checkpoint(tmp_path / "native", network, LazyConfig(StripedHyena2)(**TINY))
    return tmp_path / "native"


@pytest.fixture
def vortex(native, tmp_path):
    export_vortex(native, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def tiny_config():
    return LazyConfig(StripedHyena2)(**TINY)


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def changed(vortex, change):
    tensors = torch.load(vortex, weights_only=True)
    change(tensors)
    torch.save(tensors, vortex)
    return vortex


def test_there_and_back_is_bitwise_the_same(native, vortex, tmp_path):
    report = import_vortex(vortex, tmp_path / "back", tiny_config())
    before, after = tensors_of(native), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [row.source for row in report if row.target is None] == ["unembed.weight"]
    assert {row.how for row in report if row.target} == {"same"}


def test_a_vortex_file_has_the_published_names_and_a_tied_unembedding(vortex):
    tensors = torch.load(vortex, weights_only=True)
    assert torch.equal(tensors["unembed.weight"], tensors["embedding_layer.weight"])
    assert tensors["unembed.weight"].data_ptr() == tensors["embedding_layer.weight"].data_ptr()
    assert tensors["blocks.2.filter.log_poles"].shape == (64, 16, 1)
    assert tensors["blocks.0.filter.h"].shape == (8, 1, 7)


@pytest.mark.parametrize(
    "options",
    [
        {"rotary_base": 1e11, "rotary_scale": 128.0, "eps": 1e-5, "state_size": 8},
        {"short_filter_length": 5, "medium_filter_length": 64, "projection_filter_length": 4, "vocab_size": 640},
        {"pattern": "S*"},
        {"filter_parameters": "p_gamma"},
        {"inner_size": "2 * hidden_size"},
    ],
)
def test_the_configuration_beside_a_vortex_file_is_that_of_its_network(tmp_path, options):
    config = LazyConfig(StripedHyena2)(**{**TINY, **options})
    network = instantiate(config)
    save_checkpoint(tmp_path / "native", network, config, metadata={"max_sequence_tokens": 4096})
    export_vortex(tmp_path / "native", tmp_path / "own.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native", "own.pt", "own.yml"]
    read, metadata = vortex_config(str(tmp_path / "own.yml"))
    import_vortex(tmp_path / "own.pt", tmp_path / "back", read, metadata=metadata)
    back = load_checkpoint(tmp_path / "back", device="cpu")
    assert back.metadata["max_sequence_tokens"] == 4096
    ids = torch.randint(65, 90, (1, 200))
    with torch.inference_mode():
        assert_close(back.model(ids), network.eval()(ids), 5e-6)


def test_a_configuration_of_another_network_is_not_replaced_unasked(native, tmp_path):
    beside = tmp_path / "model.yml"
    beside.write_text("learning_rate: 0.1")
    with pytest.raises(CheckpointExists, match=r"model\.yml exists already"):
        export_vortex(native, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
    export_vortex(native, tmp_path / "model.pt", overwrite=True)
    assert vortex_config(str(beside))[0].pattern == TINY["pattern"]
    mine = "# mine\n" + beside.read_text()
    beside.write_text(mine)
    export_vortex(native, tmp_path / "model.pt", overwrite=True)
    assert beside.read_text() == mine


def test_a_network_that_the_reference_engine_lacks_is_written_without_a_configuration(tmp_path):
    options = {**TINY, "norm_form": "standard"}
    save_checkpoint(tmp_path / "native", StripedHyena2(**options), LazyConfig(StripedHyena2)(**options))
    export_vortex(tmp_path / "native", tmp_path / "model.pt")
    assert (tmp_path / "model.pt").exists()
    assert not (tmp_path / "model.yml").exists()


@pytest.mark.parametrize("change", [lambda t: t + 1, lambda t: t.bfloat16(), lambda t: t[:3], lambda t: [1.0]])
def test_an_unembedding_of_its_own_is_left_out_and_told(vortex, native, tmp_path, change):
    changed(vortex, lambda t: t.update({"unembed.weight": change(t["unembed.weight"])}))
    report = import_vortex(vortex, tmp_path / "back", tiny_config())
    left = {row.source: row.how for row in report if row.target is None}
    assert left == {"unembed.weight": "left out, although it differs from the embedding"}
    assert torch.equal(
        tensors_of(tmp_path / "back")["embedding_layer.weight"], tensors_of(native)["embedding_layer.weight"]
    )


def test_training_parameters_become_poles_and_finished_filters(tmp_path):
    torch.manual_seed(0)
    network = StripedHyena2(**TINY, filter_parameters="p_gamma").eval()
    save_checkpoint(tmp_path / "trained", network, LazyConfig(StripedHyena2)(**TINY, filter_parameters="p_gamma"))
    report = export_vortex(tmp_path / "trained", tmp_path / "model.pt")
    assert {row.how for row in report} >= {"log_poles = -exp(p) * exp(gamma)", "h * decay"}
    import_vortex(tmp_path / "model.pt", tmp_path / "back", tiny_config())
    other = load_checkpoint(tmp_path / "back", device="cpu").model
    ids = torch.randint(65, 90, (1, 300))
    with torch.inference_mode():
        assert_close(other(ids), network(ids), 5e-6)


def test_a_16_bit_file_keeps_its_types_and_wide_poles(tmp_path):
    network = StripedHyena2(**TINY, dtype=torch.bfloat16)
    save_checkpoint(tmp_path / "native", network, tiny_config())
    export_vortex(tmp_path / "native", tmp_path / "model.pt")
    import_vortex(tmp_path / "model.pt", tmp_path / "back", tiny_config())
    stored = tensors_of(tmp_path / "back")
    assert stored["norm.scale"].dtype == torch.bfloat16
    assert stored["blocks.2.filter.log_poles"].dtype == torch.float32
    metadata = [json.loads((tmp_path / n / "metadata.json").read_text()) for n in ("native", "back")]
    assert metadata[0]["weights_sha256"] == metadata[1]["weights_sha256"]
    assert metadata[0]["parameters"] == metadata[1]["parameters"]


def test_parts_of_a_file_are_joined_in_order(vortex, tmp_path):
    import_vortex(vortex, tmp_path / "whole", tiny_config())
    whole = load_checkpoint(tmp_path / "whole").metadata["weights_sha256"]
    data = vortex.read_bytes()
    for number in range(11):  # part10 comes after part9, not after part1
        part = data[number * len(data) // 11 : (number + 1) * len(data) // 11]
        (tmp_path / f"split.pt.part{number}").write_bytes(part)
    for name in ("split.pt", "split.pt.part0"):
        import_vortex(tmp_path / name, tmp_path / f"from-{name}", tiny_config())
        assert load_checkpoint(tmp_path / f"from-{name}").metadata["weights_sha256"] == whole
    (tmp_path / "split.pt.part4").unlink()
    with pytest.raises(CheckpointNotFound, match=r"split\.pt\.part4 is missing; part 10 is there"):
        import_vortex(tmp_path / "split.pt", tmp_path / "c", tiny_config())
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, r"split\.pt: is no file of torch tensors, or damaged: .*; its parts have 600,000, 599,000, "),
        (2, r"split\.pt: is truncated; it ends after [\d,]+ bytes, without the list of its tensors; its parts have "),
    ],
)
def test_a_part_that_is_cut_off_is_told_with_the_sizes_of_all(vortex, tmp_path, number, text):
    data = vortex.read_bytes()
    for part in range(3):
        (tmp_path / f"split.pt.part{part}").write_bytes(data[600_000 * part : 600_000 * (part + 1)])
    os.truncate(tmp_path / f"split.pt.part{number}", (tmp_path / f"split.pt.part{number}").stat().st_size - 1000)
    with pytest.raises(CheckpointError, match=text) as caught:
        import_vortex(tmp_path / "split.pt", tmp_path / "c", tiny_config())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c").exists()
    assert not list(tmp_path.glob(".*"))


class Malicious:
    """A pickle that would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    torch.save({"embedding_layer.weight": Malicious(tmp_path / "pwned")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"holds more than tensors and is not read.*mkdir"):
        import_vortex(tmp_path / "evil.pt", tmp_path / "c", tiny_config())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pt"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("norm.scale"), r"tensor norm\.scale is missing"),
        (lambda t: t.pop("embedding_layer.weight"), r"tensor embedding_layer\.weight is missing"),
        (lambda t: t.update(more=torch.ones(1)), r"tensor more .* is unknown"),
        (lambda t: t.update({"norm.scale": torch.ones(3)}), r"tensor norm\.scale is \[3\] float32"),
        (lambda t: t.update({"norm.scale": torch.ones(64).to_sparse()}), r"norm\.scale is a torch.sparse_coo tensor"),
        (lambda t: t.update({"norm.scale": [1.0]}), r"norm\.scale is a list; accepted: dense"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_written(vortex, tmp_path, change, text):
    with pytest.raises(CheckpointTensorError, match=text):
        import_vortex(changed(vortex, change), tmp_path / "c", tiny_config())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "model.yml", "native"]


def test_a_file_that_is_none_is_one_line(vortex, tmp_path):
    vortex.write_bytes(b"\x00" + vortex.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"is no file of torch tensors; accepted: what torch.save") as caught:
        import_vortex(vortex, tmp_path / "c", tiny_config())
    assert "\n" not in str(caught.value)
    torch.save([1, 2], vortex)
    with pytest.raises(CheckpointError, match="holds a list; accepted: a dictionary"):
        import_vortex(vortex, tmp_path / "c", tiny_config())
    with pytest.raises(CheckpointNotFound, match=r"is a folder; accepted: a .pt file"):
        import_vortex(tmp_path, tmp_path / "c", tiny_config())
    with pytest.raises(CheckpointNotFound, match=r"nowhere\.pt does not exist"):
        import_vortex(tmp_path / "nowhere.pt", tmp_path / "c", tiny_config())
    with pytest.raises(CheckpointNotFound, match=r"nowhere\.pt\.part0 does not exist$"):
        import_vortex(tmp_path / "nowhere.pt.part0", tmp_path / "c", tiny_config())


def test_an_export_replaces_a_file_only_when_allowed(native, vortex):
    with pytest.raises(CheckpointExists, match="exists already"):
        export_vortex(native, vortex)
    export_vortex(native, vortex, overwrite=True)
    with pytest.raises(CheckpointExists, match="is a folder"):
        export_vortex(native, native, overwrite=True)


def test_the_source_and_what_is_no_file_are_never_replaced(vortex, tmp_path):
    before = vortex.read_bytes()
    (tmp_path / "link.pt").symlink_to(vortex)
    options = {"read": "vortex", "write": "savanna", "config": tiny_config(), "overwrite": True}
    for target in (vortex, tmp_path / "link.pt"):
        with pytest.raises(CheckpointExists, match="is the source; choose another path"):
            convert_checkpoint(vortex, target, **options)
    assert vortex.read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointExists, match=r"pipe is a device or a pipe, which would be replaced"):
        convert_checkpoint(vortex, tmp_path / "pipe", **options)


def test_a_target_inside_a_file_or_a_closed_folder_is_refused_before_anything_is_read(vortex, tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.inference.checkpoint.conversion.open_vortex", None)
    for write in ("native", "savanna"):
        options = {"read": "vortex", "write": write, "config": tiny_config()}
        for target in (vortex / "out", vortex / "deep" / "out"):
            with pytest.raises(OutputError, match=r"out cannot be written: .*model\.pt is a file"):
                convert_checkpoint(vortex, target, **options)
        with monkeypatch.context() as context:
            context.setattr("os.access", lambda path, mode: False)
            with pytest.raises(OutputError, match=r"out cannot be written: .* may not be written"):
                convert_checkpoint(vortex, tmp_path / "new" / "out", **options)
    assert not (tmp_path / "new").exists()


def test_a_report_that_cannot_be_written_is_refused_before_the_conversion(native, vortex, tmp_path):
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    flags = ["convert", "--from", "vortex", "--to", "native", "--config", "tiny"]
    for report, text in ((tmp_path, "a file; this is a folder"), (tmp_path / "no" / "r", "in a folder that exists")):
        result = CliRunner().invoke(app, [*flags, str(vortex), str(tmp_path / "made"), "--report", str(report)])
        assert result.exit_code == 2
        assert f"--report is '{report}'; accepted: a file" in result.stderr
        assert text in result.stderr
    result = CliRunner().invoke(app, [*flags, str(vortex), str(tmp_path / "made"), "--report", str(vortex)])
    assert "accepted: another file than the input" in result.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", sorted(STRIPED_HYENA2_PRESETS))
def test_every_preset_is_a_configuration(name):
    config, metadata = vortex_config(name)
    assert config.hidden_size == striped_hyena2_preset(name).hidden_size
    assert config.filter_parameters == "poles"
    assert metadata["max_sequence_tokens"] == STRIPED_HYENA2_PRESETS[name].context_length


def test_a_yaml_file_of_the_reference_engine_is_a_configuration(tmp_path):
    (tmp_path / "tiny.yml").write_text(YAML)
    config, metadata = vortex_config(str(tmp_path / "tiny.yml"))
    assert (config.pattern, config.inner_size, config.rotary_scale, config.eps) == ("SDH*SDH*", 96, 128.0, 1e-6)
    assert metadata == {"max_sequence_tokens": 2048}
    (tmp_path / "tiny.yml").write_text(YAML.replace("inner_mlp_size: 96", "inner_size_multiple_of: 16"))
    assert vortex_config(str(tmp_path / "tiny.yml"))[0].inner_size == 176  # int(2 * 64 * 4 / 3) = 170, rounded up


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("interleave: true", "interleave: false", "interleave is False; accepted: True"),
        ("hcm_filter_groups: 8", "hcm_filter_groups: 4", "hcs_filter_groups and hcm_filter_groups differ"),
        ("[3, 7]", "[3]", "num_layers is 8"),
        ("[3, 7]", "[3, 6, 7]", "layer 6 is in attn_layer_idxs and in another list"),
        ("hidden_size: 64", "hidden_size: wide", "hidden_size is 'wide'; accepted: a number"),
        ("hidden_size: 64", "", "hidden_size is missing"),
        ("hidden_size: 64", "hidden_size: .inf", "hidden_size is inf; accepted: a number"),
        ("hidden_size: 64", "hidden_size: 64.5", r"hidden_size is 64\.5; accepted: an integer, 1 or more"),
        ("[3, 7]", "true", "attn_layer_idxs is True; accepted: a list of the numbers of layers"),
        ("[3, 7]", "[[3], 7]", "attn_layer_idxs is .*; accepted: a list of the numbers of layers"),
        ("num_layers: 8", "num_layers: 1.0e+12", "num_layers is 1000000000000"),
        ("num_layers: 8", "num_layers: 1.5", r"num_layers is 1\.5; accepted: an integer"),
        ("inner_mlp_size: 96", "inner_mlp_size: .nan", "inner_mlp_size is nan; accepted: a number"),
        ("inner_mlp_size: 96", "inner_size_multiple_of: 0", "inner_size_multiple_of is 0; accepted: an integer, 1"),
        ("max_seqlen: 2048", "max_seqlen: true", "max_seqlen is True; accepted: a number"),
        ("proj_groups: 1", "proj_groups: " + "[" * 50_000, "is not YAML"),
        ("proj_groups: 1", "proj_groups: [", "is not YAML"),
    ],
)
def test_a_yaml_file_of_another_network_is_refused_by_field(tmp_path, old, new, text):
    (tmp_path / "c.yml").write_text(YAML.replace(old, new))
    with pytest.raises(CheckpointConfigError, match=text):
        vortex_config(str(tmp_path / "c.yml"))
    with pytest.raises(
        CheckpointConfigError, match=r"'9b'; accepted: a Vortex YAML file, a native checkpoint, or one of .*7b_base"
    ):
        vortex_config("9b")


def test_the_command_converts_both_ways_and_writes_a_report(native, tmp_path):
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)

    def run(*arguments):
        return CliRunner().invoke(app, ["convert", *map(str, arguments)])

    out = tmp_path / "model.pt"
    assert run("--from", "native", "--to", "vortex", native, out).exit_code == 0
    report = tmp_path / "report.jsonl"
    done = run("--from", "vortex", "--to", "native", "--config", "tiny", out, tmp_path / "back", "--report", report)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert {"source": "norm.scale", "target": "norm.scale", "how": "same"} in rows
    assert load_checkpoint(tmp_path / "back").metadata["max_sequence_tokens"] == 2048
    for arguments, text in (
        (["--from", "native", "--to", "native", native, tmp_path / "x"], "two different formats"),
        (["--from", "vortex", "--to", "native", out, tmp_path / "x"], "--config is None"),
        (
            ["--from", "native", "--to", "vortex", native, tmp_path / "x", "--config", "7b"],
            "only for a source that is not native",
        ),
    ):
        failed = run(*arguments)
        assert failed.exit_code == 2
        assert text in failed.stderr
        assert not (tmp_path / "x").exists()
