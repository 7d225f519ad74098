"""Tests of checkpoints whose input projections are FP8: their scales in every format, and where they may run."""

import io

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from packages.inference.tests.checkpoint.foreign_checkpoints import (
    PATTERN,
    mbridge_tensors,
    savanna_tensors,
    write_mbridge,
)
from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import Engine, load_checkpoint, save_checkpoint
from subquad.inference.checkpoint import convert_checkpoint, vortex_config
from subquad.inference.checkpoint.fp8_scales import Fp8Scales, extra_state, read_scales
from subquad.inference.commands import register
from subquad.inference.errors import CheckpointTensorError, FP8Unavailable, InvalidOption
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2
from tools.testing.oracle import relative_error

HYENA = [i for i, letter in enumerate(PATTERN) if letter != "*"]


def config(**changes):
    return LazyConfig(StripedHyena2)(**{**TINY, "fp8_projections": True, **changes})


def scales(index):
    return Fp8Scales(torch.tensor(20.0 + index), torch.tensor(300.0 + index))


@pytest.fixture
def native(tmp_path):
    network = StripedHyena2(**TINY, fp8_projections=True)
    network.load_state_dict(tiny_network().state_dict(), strict=False)
    for index in HYENA:
        for name, value in scales(index)._asdict().items():
            network.get_buffer(f"blocks.{index}.projections.fp8.{name}").copy_(value)
    save_checkpoint(tmp_path / "native", network, config())
    return tmp_path / "native"


def stored_scales(folder):
    tensors = load_file(folder / "model.safetensors")
    return {
        index: tuple(float(tensors[f"blocks.{index}.projections.fp8.{n}"]) for n in ("input_scale", "weight_scale"))
        for index in HYENA
    }


EXPECTED = {index: (20.0 + index, 300.0 + index) for index in HYENA}


def test_scales_are_plain_float32_numbers_of_the_native_format(native):
    tensors = load_file(native / "model.safetensors")
    assert stored_scales(native) == EXPECTED
    assert {(t.dtype, t.shape) for n, t in tensors.items() if ".fp8." in n} == {(torch.float32, ())}


def test_scales_go_through_a_vortex_file_and_back(native, tmp_path):
    report = convert_checkpoint(native, tmp_path / "model.pt", read="native", write="vortex")
    rows = {row.source: (row.target, row.how) for row in report}
    assert rows["blocks.0.projections.fp8.input_scale"] == ("blocks.0.projections._extra_state", "into scale_fwd")
    with torch.serialization.safe_globals([io.BytesIO]):
        stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert read_scales("x", stored["blocks.1.projections._extra_state"]) == scales(1)
    report = convert_checkpoint(
        tmp_path / "model.pt", tmp_path / "back", read="vortex", write="native", config=config()
    )
    assert stored_scales(tmp_path / "back") == EXPECTED
    before, after = (load_file(folder / "model.safetensors") for folder in (native, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = {row.target: row.how for row in report if row.source == "blocks.0.projections._extra_state"}
    assert rows == {
        "blocks.0.projections.fp8.input_scale": "scale_fwd[0]",
        "blocks.0.projections.fp8.weight_scale": "scale_fwd[1]",
    }


def test_scales_go_through_savanna_and_come_out_of_megatron_bridge(tmp_path):
    tensors = savanna_tensors()
    states = {i: extra_state(scales(i)) for i in HYENA}
    savanna = {**tensors, **{f"sequential.{i + 2}.mixer.dense_projection._extra_state": s for i, s in states.items()}}
    torch.save({"module": savanna}, tmp_path / "savanna.pt")
    made = mbridge_tensors(tensors)
    for i, state in states.items():
        made[f"decoder.layers.{i}.mixer.dense_projection._extra_state"] = io.BytesIO(state.getvalue())
    made["decoder.layers.3.self_attention.linear_qkv._extra_state"] = io.BytesIO()
    write_mbridge(tmp_path / "mbridge", made)
    for read, source in (("savanna", "savanna.pt"), ("mbridge", "mbridge")):
        convert_checkpoint(tmp_path / source, tmp_path / read / "n", read=read, write="native", config=config())
        assert stored_scales(tmp_path / read / "n") == EXPECTED
    convert_checkpoint(tmp_path / "savanna" / "n", tmp_path / "again.pt", read="native", write="savanna")
    convert_checkpoint(tmp_path / "again.pt", tmp_path / "again", read="savanna", write="native", config=config())
    assert stored_scales(tmp_path / "again") == EXPECTED


def test_a_config_with_fp8_needs_the_scales_of_every_projection(native, tmp_path):
    convert_checkpoint(native, tmp_path / "model.pt", read="native", write="vortex")
    with torch.serialization.safe_globals([io.BytesIO]):
        stored = torch.load(tmp_path / "model.pt", weights_only=True)
    del stored["blocks.2.projections._extra_state"]
    stored["blocks.1.projections._extra_state"] = None
    torch.save(stored, tmp_path / "model.pt")
    options = {"read": "vortex", "write": "native", "config": config()}
    with pytest.raises(CheckpointTensorError, match=r"2 of them have no scales, e\.g\. blocks\.1.*1\.2435 instead of"):
        convert_checkpoint(tmp_path / "model.pt", tmp_path / "made", **options)
    assert not (tmp_path / "made").exists()
    convert_checkpoint(tmp_path / "model.pt", tmp_path / "made", **options, without_fp8=True)
    assert not any(".fp8." in name for name in load_file(tmp_path / "made" / "model.safetensors"))
    load_checkpoint(tmp_path / "made", device="cpu")


def test_scales_that_the_config_does_not_use_are_left_out_and_told(native, tmp_path):
    convert_checkpoint(native, tmp_path / "model.pt", read="native", write="vortex")
    plain = config(fp8_projections=False)
    report = convert_checkpoint(tmp_path / "model.pt", tmp_path / "made", read="vortex", write="native", config=plain)
    left = {row.source: row.how for row in report if row.target is None}
    assert left["blocks.0.projections._extra_state"] == "left out: FP8 scales, which the config does not use"
    report = convert_checkpoint(native, tmp_path / "plain.pt", read="native", write="vortex", without_fp8=True)
    assert {row.how for row in report if ".fp8." in row.source} == {"left out: FP8 scales"}


@pytest.mark.usefixtures("unchecked_types")
def test_a_cpu_runs_fp8_projections_only_when_told_how_and_says_what_that_costs(native):
    with pytest.raises(
        FP8Unavailable, match=r"the device is cpu.*'emulate', .*exact .*1\.79 instead of 0\.92.*off .*1\.2435"
    ):
        load_checkpoint(native, device="cpu")
    save_checkpoint(native.with_name("plain"), tiny_network(), config(fp8_projections=False))
    with pytest.raises(InvalidOption, match="is 'emulate'; accepted: 'auto' or 'off', since this network has no FP8"):
        load_checkpoint(native.with_name("plain"), device="cpu", fp8_projections="emulate")
    with pytest.raises(InvalidOption, match="fp8_projections is 'maybe'"):
        Engine.from_checkpoint(native, device="cpu", fp8_projections="maybe")
    options = ("emulate", "exact", "off")
    emulated, exact, plain = (load_checkpoint(native, device="cpu", fp8_projections=o).model for o in options)
    ids = torch.tensor([list(b"ACGTTGCAACGT" * 6)])
    with torch.inference_mode():
        assert torch.equal(plain(ids), tiny_network()(ids))
        assert 1e-3 < relative_error(exact(ids), plain(ids)) < 0.5
        assert 0 < relative_error(emulated(ids), exact(ids)) < relative_error(exact(ids), plain(ids))
    engine = Engine.from_checkpoint(native, device="cpu", fp8_projections="emulate")
    assert len(engine.generate(["ACGT"])) == 1


def test_presets_know_which_checkpoints_were_trained_with_fp8():
    used = {name: vortex_config(name)[0].fp8_projections for name in ("1b_base", "7b", "7b_base", "20b", "40b")}
    assert used == {"1b_base": True, "7b": False, "7b_base": False, "20b": True, "40b": True}


def test_a_command_is_told_how_to_run_fp8_projections(native):
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)

    def run(*arguments):
        return CliRunner().invoke(app, ["generate", str(native), "-p", "ACGT", "--device", "cpu", *arguments])

    refused = run()
    assert refused.exit_code == 2
    assert "1b_base 1.2435 instead of 1.0765" in refused.stderr
    assert run("--fp8-projections", "emulate").exit_code == 0
    assert run("--fp8-projections", "off").exit_code == 0


def test_all_linear_layers_are_rounded_on_demand(tmp_path):
    save_checkpoint(tmp_path / "plain", tiny_network(), config(fp8_projections=False))
    with pytest.raises(InvalidOption, match="weights is 'int4'; accepted: 'stored' or 'fp8'"):
        load_checkpoint(tmp_path / "plain", device="cpu", weights="int4")
    engine = Engine.from_checkpoint(tmp_path / "plain", device="cpu", weights="fp8")
    ids = torch.tensor([list(b"ACGTTGCAACGT" * 6)])
    assert 1e-3 < relative_error(engine.forward(ids), tiny_network()(ids)) < 0.9
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    arguments = ["generate", str(tmp_path / "plain"), "-p", "ACGT", "--device", "cpu", "--weights", "fp8"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
