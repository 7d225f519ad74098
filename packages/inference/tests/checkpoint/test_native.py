"""Tests of the native checkpoint directory."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from packages.inference.tests.conftest import TINY
from subquad.inference import ByteTokenizer, Engine, GenerationOptions, load_checkpoint, save_checkpoint
from subquad.inference.checkpoint import convert_checkpoint, native
from subquad.inference.checkpoint.files import sha256_of
from subquad.inference.errors import (
    CheckpointConfigError,
    CheckpointExists,
    CheckpointHashMismatch,
    CheckpointNotFound,
    CheckpointTensorError,
    InvalidOption,
)
from subquad.lazy_config import LazyConfig
from subquad.modules import RMSNorm, StripedHyena2


def config(**changes):
    return LazyConfig(StripedHyena2)(**{**TINY, **changes})


@pytest.fixture
def saved(network, tmp_path):
    """A checkpoint of the tiny network that the test may damage."""
    save_checkpoint(tmp_path / "saved", network, config(), metadata={"max_sequence_tokens": 300, "steps": 7})
    return tmp_path / "saved"


def rewrite_weights(folder, change):
    """Changes the stored tensors, and the digests with them so that only the change itself can be found."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    rewrite_metadata(folder, lambda m: m["files"][file.name].update(bytes=file.stat().st_size, sha256=sha256_of(file)))


def rewrite_metadata(folder, change):
    metadata = json.loads((folder / "metadata.json").read_text())
    change(metadata)
    (folder / "metadata.json").write_text(json.dumps(metadata))


def rewrite_config(folder, old, new):
    file = folder / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    rewrite_metadata(folder, lambda m: m["files"][file.name].update(bytes=file.stat().st_size, sha256=sha256_of(file)))


def test_a_checkpoint_round_trips_bitwise(network, saved):
    loaded = load_checkpoint(saved, device="cpu")
    assert loaded.config == config()
    assert loaded.tokenizer == ByteTokenizer(512)
    assert not loaded.model.training
    expected, found = network.state_dict(), loaded.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_round_trip_with_wide_poles(tmp_path, dtype):
    network = StripedHyena2(**TINY, dtype=dtype)
    save_checkpoint(tmp_path / "c", network, config())
    stored = load_file(tmp_path / "c" / "model.safetensors")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert stored["blocks.2.filter.log_poles"].dtype == wide
    assert stored["blocks.0.projections.weight"].dtype == dtype
    loaded = load_checkpoint(tmp_path / "c", dtype=dtype)
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), loaded.model.state_dict().values(), strict=True)
    )
    on_cpu = load_checkpoint(tmp_path / "c", device="cpu")
    assert next(on_cpu.model.parameters()).dtype == wide  # 16-bit weights are widened on a CPU


def test_training_parameters_round_trip_with_their_envelope(tmp_path):
    network = StripedHyena2(**TINY, filter_parameters="p_gamma")
    save_checkpoint(tmp_path / "c", network, config(filter_parameters="p_gamma"))
    stored = load_file(tmp_path / "c" / "model.safetensors")
    assert {"blocks.2.filter.p", "blocks.2.filter.gamma", "blocks.1.filter.decay"} <= stored.keys()
    assert "blocks.2.filter.log_poles" not in stored
    assert json.loads((tmp_path / "c" / "metadata.json").read_text())["filter_parameters"] == "p_gamma"
    loaded = load_checkpoint(tmp_path / "c").model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())


def test_names_shapes_and_orientation_on_disk_are_the_published_ones(network, saved):
    stored, memory = load_file(saved / "model.safetensors"), network.state_dict()
    assert "unembed.weight" not in stored
    assert stored["blocks.0.filter.short_filter_weight"].shape == (192, 1, 3)
    assert stored["blocks.0.filter.h"].shape == (8, 1, 7)
    assert stored["blocks.1.filter.h"].shape == (8, 1, 128)
    assert stored["blocks.2.filter.log_poles"].shape == (64, 16, 1)
    assert torch.equal(
        stored["blocks.0.filter.short_filter_weight"][:, 0, -1], memory["blocks.0.filter.projection_taps"][:, 0]
    )
    assert torch.equal(stored["blocks.0.filter.h"][:, 0, -1], memory["blocks.0.filter.taps"][:, 0])
    assert torch.equal(stored["blocks.1.filter.h"][:, 0, 0], memory["blocks.1.filter.taps"][:, 0])
    assert {"embedding_layer.weight", "norm.scale", "blocks.3.inner_mha_cls.rotary_emb.inv_freq"} <= stored.keys()


def test_metadata_holds_digests_versions_and_what_the_caller_adds(saved):
    metadata = json.loads((saved / "metadata.json").read_text())
    assert metadata["files"]["model.safetensors"]["sha256"] == sha256_of(saved / "model.safetensors")
    assert metadata["files"]["config.yaml"]["sha256"] == sha256_of(saved / "config.yaml")
    assert metadata["weights_sha256"] == sha256_of(saved / "model.safetensors")
    assert metadata["tokenizer"] == {"name": "byte", "vocab_size": 512}
    assert (metadata["filter_parameters"], metadata["dtype"], metadata["steps"]) == ("poles", "float32", 7)
    assert metadata["versions"]["torch"] == torch.__version__


def test_an_engine_from_a_checkpoint_generates_what_the_network_does(saved, engine):
    loaded = Engine.from_checkpoint(saved, device="cpu", max_running=4, prefill_chunk=16)
    options = GenerationOptions(max_new_tokens=12, return_logprobs=True)
    assert loaded.generate(["ACGTT"], options) == engine.generate(["ACGTT"], options)
    assert loaded.max_sequence_tokens == 300
    assert loaded.weights_sha256 == sha256_of(saved / "model.safetensors")


def test_large_weights_are_split_into_files_with_an_index(network, tmp_path):
    save_checkpoint(tmp_path / "c", network, config(), max_shard_bytes=100_000)
    files = sorted(f.name for f in (tmp_path / "c").glob("*.safetensors"))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "c" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    loaded = load_checkpoint(tmp_path / "c").model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())
    assert load_checkpoint(tmp_path / "c").metadata["weights_sha256"] == sha256_of(
        tmp_path / "c" / "model.safetensors.index.json"
    )


def narrow(tensors, name):
    tensors[name] = tensors[name].bfloat16()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("blocks.1.filter.D"), r"tensor blocks.1.filter.D is missing \(expected \[64\] float32\)"),
        (lambda t: t.update(extra=torch.zeros(2)), r"tensor extra \(\[2\] float32\) is unknown to the config"),
        (
            lambda t: t.update({"norm.scale": torch.ones(63)}),
            r"tensor norm.scale is \[63\] float32, the config asks for \[64\] float32",
        ),
        (
            lambda t: narrow(t, "norm.scale"),
            r"tensor norm.scale is \[64\] bfloat16, the config asks for \[64\] float32",
        ),
        (
            lambda t: t.update({"norm.scale": torch.ones(64, dtype=torch.int32)}),
            r"tensor norm.scale is \[64\] int32, the config asks for \[64\] float32",
        ),
        (
            lambda t: narrow(t, "blocks.2.filter.log_poles"),
            "bfloat16, the config asks for .*; poles and residues are float32",
        ),
        (lambda t: [t.pop(n) for n in list(t)[:3]], r"is missing .* \(and 2 more such problems\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(saved, change, text):
    rewrite_weights(saved, change)
    with pytest.raises(CheckpointTensorError, match=text):
        load_checkpoint(saved)


def test_a_changed_weight_shows_by_its_digest(saved):
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointHashMismatch, match=r"model.safetensors has the sha256 .*, metadata.json says"):
        load_checkpoint(saved)
    load_checkpoint(saved, verify=False)


def test_a_truncated_file_is_named_with_both_sizes(saved):
    data = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(data[:-10])
    with pytest.raises(CheckpointHashMismatch, match=rf"has {len(data) - 10} bytes, metadata.json says {len(data)}"):
        load_checkpoint(saved)


def test_a_damaged_header_is_an_error_of_that_file(saved):
    file = saved / "model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(CheckpointTensorError, match=r"model\.safetensors is damaged"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("hidden_size", "hidden_sise", "config.yaml:3: hidden_sise is not a parameter of StripedHyena2"),
        ("subquad.modules.", "os.", "config.yaml:1: .* is refused and was not imported"),
        ("subquad.modules.networks.striped_hyena2:StripedHyena2", "subquad.modules.nowhere:Thing", "config.yaml:1"),
        ("num_heads: 4", "num_heads: 7", "config.yaml: .*7"),
        ("inner_size: 96", "inner_size: [", "config.yaml:.*not YAML"),
    ],
)
def test_a_bad_config_is_one_line_that_names_the_file(saved, old, new, text):
    rewrite_config(saved, old, new)
    with pytest.raises(CheckpointConfigError, match=text) as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.update(format="other"), "format is not 'subquad-checkpoint'"),
        (lambda m: m.update(max_sequence_tokens="lots"), "max_sequence_tokens is 'lots'; accepted: an integer, 1 or"),
        (lambda m: m.update(max_sequence_tokens=True), "max_sequence_tokens is True; accepted"),
        (lambda m: m.update(max_sequence_tokens=-5), "max_sequence_tokens is -5; accepted"),
        (lambda m: m.update(parameters="x"), "parameters is 'x'; accepted: an integer, 1 or more, or no such field"),
        (lambda m: m["files"].update({"x" * 300: {"bytes": 0, "sha256": ""}}), "files lists 'x{80}'; accepted: names"),
        (lambda m: m.update(format_version=99), "format_version is 99; this version reads 1"),
        (lambda m: m.update(dtype="int4"), "dtype is 'int4'; accepted: float32"),
        (lambda m: m.update(tokenizer={"name": "words"}), "tokenizer is .*; accepted: name 'byte'"),
        (lambda m: m["files"].update({"../x": {}}), "accepted: names without a folder"),
        (lambda m: m["files"].update({"": {}}), "files lists ''; accepted: names without a folder"),
        (lambda m: m["files"].update({"\ud800": {}}), r"files lists '\\ud800'; accepted: names without a folder"),
        (lambda m: m["files"].update({"a\0": {}}), r"files lists 'a\\x00'; accepted: names without a folder"),
        (
            lambda m: m["tokenizer"].update(vocab_size=256),
            "tokenizer has 256 ids; accepted: 512, the rows",
        ),
        (lambda m: m["tokenizer"].update(vocab_size=1024), "tokenizer has 1024 ids; accepted: 512"),
        (lambda m: m.update(max_sequence_tokens=1 << 70), "max_sequence_tokens is 1180591620717411303424; accepted"),
        (lambda m: m["files"].update({"x": {"bytes": 1}}), "needs the fields bytes and sha256"),
        (lambda m: m["files"].pop("config.yaml"), "files does not list config.yaml"),
        (lambda m: m.pop("files"), "files is None; accepted: dict"),
    ],
)
def test_bad_metadata_is_named_by_field(saved, change, text):
    rewrite_metadata(saved, change)
    with pytest.raises(CheckpointConfigError, match=text):
        load_checkpoint(saved)


def test_a_path_that_is_no_checkpoint_says_so(tmp_path, saved):
    with pytest.raises(CheckpointNotFound, match="does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointNotFound, match="is no directory"):
        load_checkpoint(tmp_path / "file")
    (saved / "config.yaml").unlink()
    with pytest.raises(CheckpointNotFound, match=r"config.yaml is missing; metadata.json lists it"):
        load_checkpoint(saved)
    (saved / "metadata.json").write_text("{")
    with pytest.raises(CheckpointConfigError, match="is not JSON"):
        load_checkpoint(saved)


def test_a_pickle_is_never_read(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointNotFound):
        load_checkpoint(tmp_path)


def test_an_existing_checkpoint_is_replaced_only_when_allowed(saved, network, fresh_network):
    with pytest.raises(CheckpointExists, match="exists already"):
        save_checkpoint(saved, fresh_network, config())
    with torch.no_grad():
        fresh_network.get_parameter("norm.scale").fill_(2.0)
    save_checkpoint(saved, fresh_network, config(), overwrite=True)
    assert load_checkpoint(saved).model.get_parameter("norm.scale").eq(2).all()
    assert [p.name for p in saved.parent.iterdir()] == ["saved"]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path, network):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointExists, match="is no checkpoint"):
        save_checkpoint(tmp_path / "precious", network, config(), overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_save_that_fails_leaves_everything_as_it_was(saved, fresh_network, monkeypatch, overwrite):
    target = saved if overwrite else saved.parent / "other"
    before = sha256_of(saved / "model.safetensors")

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(native, "write_safetensors", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(target, fresh_network, config(), overwrite=overwrite)
    assert [p.name for p in saved.parent.iterdir()] == ["saved"]
    assert sha256_of(saved / "model.safetensors") == before


def test_a_config_that_describes_another_network_is_refused_before_writing(tmp_path, network):
    with pytest.raises(CheckpointTensorError, match=r"the network: tensor .*, the config asks for"):
        save_checkpoint(tmp_path / "c", network, config(inner_size=97))
    with pytest.raises(CheckpointConfigError, match="the field 'dtype', which is written by the format itself"):
        save_checkpoint(tmp_path / "c", network, config(), metadata={"dtype": "x"})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_device_or_type_is_refused(saved):
    with pytest.raises(InvalidOption, match="device is 'abacus'; accepted: 'auto', 'cpu'"):
        load_checkpoint(saved, device="abacus")
    for other in ("meta", "mps", "cuda:-1"):
        with pytest.raises(InvalidOption, match=f"device is '{other}'; accepted: 'auto', 'cpu', 'cuda' or 'cuda:N'"):
            load_checkpoint(saved, device=other)
    with pytest.raises(InvalidOption, match="dtype is 'int8'; accepted: 'auto' or one of float32"):
        load_checkpoint(saved, dtype="int8")


def test_a_copied_directory_loads_from_its_new_place(saved, tmp_path):
    shutil.move(saved, tmp_path / "moved")
    load_checkpoint(tmp_path / "moved")


KILLED = """
import os, signal, sys
from subquad.inference.checkpoint import convert_checkpoint
end = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
convert_checkpoint(sys.argv[1], sys.argv[2], read="native", write=sys.argv[3], on_progress=end)
"""


def test_what_a_killed_conversion_left_goes_with_the_next_one(saved, tmp_path):
    target = tmp_path / "out" / "net.pt"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(saved), str(target), "vortex"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in target.parent.iterdir()] == [".partial"]
    convert_checkpoint(saved, target, read="native", write="vortex")
    assert sorted(target.parent.iterdir()) == [target, target.with_suffix(".yml")]


def test_an_old_checkpoint_that_a_killed_process_put_aside_goes_with_the_next_one(network, tmp_path):
    target, aside = tmp_path / "new" / "net", tmp_path / "new" / ".net.abcdefgh.old"
    aside.mkdir(parents=True)
    (aside / "net").mkdir()
    save_checkpoint(target, network, config())
    assert [*target.parent.iterdir()] == [target]


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.ReLU(), nn.ModuleDict({"embedding_layer": nn.Linear(3, 3)})])
def test_a_network_that_reads_no_tokens_is_refused(tmp_path, model):
    accepted = r"a network of tokens, whose embedding_layer is an nn.Embedding, such as StripedHyena2"
    with pytest.raises(InvalidOption, match=f"model is '{type(model).__name__}'; accepted: {accepted}"):
        save_checkpoint(tmp_path / "x", model, LazyConfig(nn.Linear)(3, 3))
    assert not list(tmp_path.iterdir())


def test_a_config_of_a_network_that_reads_no_tokens_is_refused(network, tmp_path):
    with pytest.raises(InvalidOption, match=r"config is 'RMSNorm'; accepted: a network of tokens"):
        save_checkpoint(tmp_path / "x", network, LazyConfig(RMSNorm)(64))


def test_a_type_that_the_format_does_not_hold_is_refused(tmp_path):
    model = StripedHyena2(**TINY)
    model.embedding_layer.weight.data = model.embedding_layer.weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(
        InvalidOption, match=r"model\.dtype is 'float8_e4m3fn'; accepted: float32, bfloat16, float16 or"
    ):
        save_checkpoint(tmp_path / "x", model, config())
