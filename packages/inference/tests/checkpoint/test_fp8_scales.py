"""Tests of reading and writing the FP8 state of TransformerEngine."""

import io
import os
import pickle
import sys
import types

import pytest
import torch

from subquad.inference.checkpoint.fp8_scales import Fp8Scales, extra_state, read_scales
from subquad.inference.errors import CheckpointError, CheckpointTensorError


class DelayedScaling:
    """Stands for the recipe that TransformerEngine stores."""

    def __init__(self):
        self.amax_history_len = 16


@pytest.fixture
def recipe(monkeypatch):
    """A recipe whose class lies in a module of TransformerEngine while it is written, and nowhere afterwards."""
    module = types.ModuleType("transformer_engine.common.recipe")
    module.DelayedScaling = DelayedScaling
    for name in ("transformer_engine", "transformer_engine.common"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "transformer_engine.common.recipe", module)
    monkeypatch.setattr(DelayedScaling, "__module__", "transformer_engine.common.recipe")
    return DelayedScaling()


def state(**more):
    return {
        "scale_fwd": torch.tensor([16.0, 512.0, 1.0]),
        "scale_inv_fwd": torch.tensor([1 / 16, 1 / 512, 1.0]),
        "amax_history_fwd": torch.rand(16, 3),
        "extra_fp8_variables": {"fp8_checkpoint": True, "num_gemms": 1},
        **more,
    }


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer


def numbers(scales):
    return (float(scales.input_scale), float(scales.weight_scale))


def test_scales_are_read_from_a_buffer_of_torch_save(recipe):
    assert numbers(read_scales("x", saved(state()))) == (16.0, 512.0)
    assert numbers(read_scales("x", saved(state(recipe=recipe)))) == (16.0, 512.0)
    assert numbers(read_scales("x", state())) == (16.0, 512.0)


def test_scales_are_read_from_a_tensor_of_pickled_bytes(recipe):
    data = pickle.dumps(state(recipe=recipe))
    assert numbers(read_scales("x", torch.frombuffer(bytearray(data), dtype=torch.uint8))) == (16.0, 512.0)


def test_what_is_written_is_read_and_has_the_form_that_transformer_engine_wants():
    buffer = extra_state(Fp8Scales(torch.tensor(3.0), torch.tensor(5.0)))
    assert numbers(read_scales("x", buffer)) == (3.0, 5.0)
    stored = torch.load(buffer, weights_only=True)
    assert stored["amax_history_fwd"].shape == (16, 3)
    assert torch.equal(stored["scale_inv_fwd"], 1 / torch.tensor([3.0, 5.0, 1.0]))


@pytest.mark.parametrize("empty", [None, io.BytesIO(), {}, torch.empty(0, dtype=torch.uint8)])
def test_a_layer_without_fp8_has_no_scales(empty):
    assert read_scales("x", empty) is None
    assert read_scales("x", saved(None)) is None


class Malicious:
    """A pickle that would make a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["saved", "pickled", "storage"])
def test_a_malicious_state_is_refused_and_not_run(tmp_path, form):
    evil = Malicious(tmp_path / "pwned")
    if form == "saved":
        value = saved(state(more=evil))
    elif form == "pickled":
        value = torch.frombuffer(bytearray(pickle.dumps(state(more=evil))), dtype=torch.uint8)
    else:
        inner = saved(evil, _use_new_zipfile_serialization=False).getvalue()

        class Storage:
            def __reduce__(self):
                return torch.storage._load_from_bytes, (inner,)

        value = torch.frombuffer(bytearray(pickle.dumps(state(more=Storage()))), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match=r"x: (names posix\.mkdir, which is no data|a storage is damaged)"):
        read_scales("x", value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "is a int; accepted: bytes with the state"),
        (io.BytesIO(b"PK\x03\x04junk"), "is no archive of torch.save"),
        (io.BytesIO(b"junk"), "is no pickle of plain data"),
        (saved([1]), "holds a list; accepted: a dictionary with scale_fwd"),
        (saved(state(scale_fwd=torch.tensor(1.0))), "scale_fwd is no vector"),
        (saved(state(scale_fwd=torch.tensor([0.0, 1.0]))), r"scale_fwd is \[0\.0, 1\.0\]; accepted: positive"),
        (saved(state(scale_fwd=torch.tensor([1.0, float("nan")]))), "accepted: positive"),
    ],
)
def test_a_damaged_state_is_named(value, text):
    with pytest.raises((CheckpointError, CheckpointTensorError), match=text):
        read_scales("layer 3", value)
