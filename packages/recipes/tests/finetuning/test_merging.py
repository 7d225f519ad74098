"""Adapters on disk: what their file holds, whom it belongs to, and the checkpoint that it makes of its base."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from subquad.inference import Engine, load_checkpoint, save_checkpoint
from subquad.inference.errors import CheckpointExists, CheckpointNotFound
from subquad.lazy_config import LazyConfig
from subquad.modules import LowRankLinear, StripedHyena2
from subquad.recipes.errors import AdapterBaseError, AdapterError, MissingFileError, SettingError
from subquad.recipes.finetuning import Adapter, BaseCheckpoint, load_adapted, merge_adapter, read_adapter
from subquad.recipes.finetuning.adapter_file import save_adapter
from subquad.recipes.training import LoraSettings
from subquad.recipes.training.low_rank import adapt

SIZES: dict[str, Any] = {"hidden_size": 16, "num_heads": 2, "inner_size": 24, "filter_groups": 4}


def write_base(path: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(seed)
    config = LazyConfig(StripedHyena2)(pattern="SDH*", **SIZES)
    model = StripedHyena2(pattern="SDH*", **SIZES).to(dtype)
    save_checkpoint(path, model, config, metadata={"max_sequence_tokens": 4096})
    return path


def write_adapter(path: Path, base: Path) -> torch.nn.Module:
    network = load_checkpoint(base, device="cpu").model
    targets = adapt(network, LoraSettings(rank=2, alpha=4.0))
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, LowRankLinear):
            layer.up.data.copy_(torch.randn(layer.up.shape, generator=generator))
    adapter = Adapter(base=BaseCheckpoint.at(base), rank=2, alpha=4.0, targets=targets, recipe={"steps": 6})
    save_adapter(path, network, adapter)
    return network.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "checkpoint")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    write_adapter(base.parent / "adapter.safetensors", base)
    return base.parent / "adapter.safetensors"


IDS = torch.tensor([list(b"ACGTTGCAACGTAGGCATTACG" * 4)])


@torch.inference_mode()
def test_a_merged_checkpoint_gives_bit_for_bit_what_the_adapted_network_does(base: Path, tmp_path: Path):
    network = write_adapter(tmp_path / "adapter.safetensors", base)
    loaded, _ = load_adapted(tmp_path / "adapter.safetensors")
    merge_adapter(tmp_path / "adapter.safetensors", tmp_path / "merged")
    merged = load_checkpoint(tmp_path / "merged", device="cpu")
    before = load_checkpoint(base, device="cpu").model
    assert torch.equal(loaded.model(IDS), network(IDS))
    assert torch.equal(merged.model(IDS), network(IDS))
    assert not torch.allclose(before(IDS), network(IDS), atol=0.01)
    assert set(merged.model.state_dict()) == set(before.state_dict())
    assert (merged.metadata["max_sequence_tokens"], merged.metadata["recipe"]) == (4096, {"steps": 6})


def test_an_engine_generates_and_scores_with_a_merged_checkpoint(adapter: Path, tmp_path: Path):
    merge_adapter(adapter, tmp_path / "merged")
    engine = Engine.from_checkpoint(tmp_path / "merged", device="cpu")
    assert len(engine.score(["ACGTTGCA"])) == 1


@torch.inference_mode()
def test_sums_are_rounded_once_to_the_type_asked_for(tmp_path: Path):
    base = write_base(tmp_path / "base", dtype=torch.bfloat16)
    write_adapter(tmp_path / "adapter.safetensors", base)
    merge_adapter(tmp_path / "adapter.safetensors", tmp_path / "wide")
    merge_adapter(tmp_path / "adapter.safetensors", tmp_path / "narrow", dtype="bfloat16")
    wide = load_checkpoint(tmp_path / "wide", device="cpu", dtype="float32").model
    narrow = load_checkpoint(tmp_path / "narrow", device="cpu", dtype="bfloat16")
    assert narrow.metadata["dtype"] == "bfloat16"
    stored = {name: tensor for name, tensor in narrow.model.named_parameters() if name.endswith("l1.weight")}
    assert len(stored) == 4
    assert all(torch.equal(tensor, wide.get_parameter(name).bfloat16()) for name, tensor in stored.items())
    with pytest.raises(SettingError, match="dtype: got 'int8'; accepted is auto, float32"):
        merge_adapter(tmp_path / "adapter.safetensors", tmp_path / "other", dtype="int8")


def test_the_file_names_its_base_by_place_and_hash(base: Path, adapter: Path):
    described, tensors = read_adapter(adapter)
    metadata = json.loads((base / "metadata.json").read_text())
    assert described.base.path == str(base)
    assert described.base.weights_sha256 == metadata["weights_sha256"]
    assert described.base.config_sha256 == metadata["files"]["config.yaml"]["sha256"]
    assert set(tensors) == {f"{name}.{part}" for name in described.targets for part in ("down", "up")}
    assert adapter.stat().st_size < sum(file.stat().st_size for file in base.iterdir())


def test_another_base_is_refused_and_a_moved_one_is_found(base: Path, adapter: Path, tmp_path: Path):
    other = write_base(tmp_path / "other", seed=1)
    with pytest.raises(AdapterBaseError, match=r"adapter\.safetensors: .*other is another base, its weights_sha256 is"):
        merge_adapter(adapter, tmp_path / "merged", base=other)
    shutil.copytree(base, tmp_path / "changed")
    metadata = json.loads((base / "metadata.json").read_text())
    metadata["files"]["config.yaml"]["sha256"] = "0" * 64
    (tmp_path / "changed" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(AdapterBaseError, match="its config_sha256 is 000000"):
        merge_adapter(adapter, tmp_path / "merged", base=tmp_path / "changed")
    with pytest.raises(CheckpointNotFound, match="nowhere does not exist"):
        merge_adapter(adapter, tmp_path / "merged", base=tmp_path / "nowhere")
    assert not (tmp_path / "merged").exists()
    shutil.copytree(base, tmp_path / "moved")
    merge_adapter(adapter, tmp_path / "merged", base=tmp_path / "moved")
    with pytest.raises(CheckpointExists, match="merged exists already"):
        merge_adapter(adapter, tmp_path / "merged", base=tmp_path / "moved")
    merge_adapter(adapter, tmp_path / "merged", base=tmp_path / "moved", overwrite=True)


def test_a_base_that_is_gone_is_asked_for(tmp_path: Path):
    base = write_base(tmp_path / "base")
    write_adapter(tmp_path / "adapter.safetensors", base)
    base.rename(tmp_path / "moved")
    with pytest.raises(AdapterBaseError, match=r"its base .*base is not there; give the folder where it is now"):
        load_adapted(tmp_path / "adapter.safetensors")


def content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return tensors, json.loads(file.metadata()["subquad-adapter"])


def without_a_tensor(tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> None:
    del tensors["blocks.0.mlp.l1.up"]


def with_one_too_many(tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> None:
    tensors["blocks.0.mlp.l9.up"] = torch.zeros(2)


def of_another_shape(tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> None:
    tensors["blocks.0.mlp.l1.up"] = torch.zeros(3, 2)


def of_a_layer_that_is_not_there(tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> None:
    fields["targets"].append("blocks.9.mlp.l1")
    tensors |= {"blocks.9.mlp.l1.up": torch.zeros(2, 2), "blocks.9.mlp.l1.down": torch.zeros(2, 2)}


def of_a_later_version(tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> None:
    fields["format_version"] = 2


def of_a_rank_without_end(tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> None:
    fields["rank"] = 10**15


def without_a_rank(tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> None:
    del fields["rank"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_tensor, r"blocks\.0\.mlp\.l1\.up is missing"),
        (with_one_too_many, r"blocks\.0\.mlp\.l9\.up is of no target"),
        (of_another_shape, r"blocks\.0\.mlp\.l1\.up has the shape \(3, 2\); accepted is \(24, 2\)"),
        (of_a_layer_that_is_not_there, r"target 'blocks\.9\.mlp\.l1' names no module"),
        (of_a_later_version, "format_version is 2; this version reads 1"),
        (of_a_rank_without_end, r"has the shape \(.*\); accepted is one of rank 1000000000000000"),
        (without_a_rank, "the field 'subquad-adapter' of its header cannot be read: KeyError"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None], message: str, adapter: Path, tmp_path: Path
):
    tensors, fields = content(adapter)
    change(tensors, fields)
    save_file(tensors, tmp_path / "changed", {"subquad-adapter": json.dumps(fields)})
    with pytest.raises(AdapterError, match=message):
        load_adapted(tmp_path / "changed")


def test_a_file_that_is_no_adapter_is_refused(adapter: Path, tmp_path: Path):
    with pytest.raises(MissingFileError, match="nothing: no such adapter"):
        read_adapter(tmp_path / "nothing")
    (tmp_path / "cut").write_bytes(adapter.read_bytes()[:-10])
    with pytest.raises(AdapterError, match="cut is damaged, or no safetensors file"):
        read_adapter(tmp_path / "cut")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(AdapterError, match="other is no adapter: its header has no field 'subquad-adapter'"):
        read_adapter(tmp_path / "other")
