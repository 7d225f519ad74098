"""Runs that train corrections of low rank: what they leave alone, what they write, how they go on."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from subquad.inference import load_checkpoint, save_checkpoint
from subquad.inference.errors import CheckpointNotFound
from subquad.lazy_config import Config, LazyConfig, apply_overrides, derive, instantiate
from subquad.modules import LowRankLinear, StripedHyena2
from subquad.recipes.configs.small import config as small_config
from subquad.recipes.errors import AdapterBaseError, ResumeError, SettingError, TrainingInterrupted
from subquad.recipes.finetuning import load_adapted, merge_adapter
from subquad.recipes.training import LanguageModelTraining, LoraSettings, TrainingConfig, TrainingResult, train
from subquad.recipes.training.low_rank import LINEARS, adapt

RUN = [
    *("data.window=32", "data.genomes=[phix174]", "optimizer.warmup_steps=2", "optimizer.learning_rate=0.05"),
    *("run.steps=6", "run.batch_size=2", "run.validate_every=3", "run.save_every=2", "run.accelerator=cpu"),
]
LORA = ["lora.rank=2", "lora.alpha=8"]


def write_base(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = LazyConfig(StripedHyena2)(
        pattern="S*", filter_parameters="p_gamma", hidden_size=8, num_heads=2, inner_size=8, filter_groups=4
    )
    save_checkpoint(path, instantiate(config), config)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "checkpoint")


def lora(base: Path, *overrides: str) -> Config[TrainingConfig]:
    return apply_overrides(small_config(), [*RUN, *LORA, f"run.initial_checkpoint={base}", *overrides])


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(lora(base), output=tmp_path_factory.mktemp("runs") / "whole", progress=False)


def corrections(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def test_the_defaults_name_every_linear_of_the_network(base: Path, finished: TrainingResult):
    network = load_checkpoint(base, device="cpu").model
    linears = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name.rpartition(".")[2] for name in linears} == set(LINEARS)
    tensors = corrections(finished.checkpoint)
    assert set(tensors) == {f"{name}.{part}" for name in linears for part in ("down", "up")}
    assert all(tensor.any() for tensor in tensors.values())
    assert tensors["blocks.0.projections.down"].shape == (2, 8)
    assert tensors["blocks.0.projections.up"].shape == (24, 2)


def test_a_run_learns_and_leaves_the_base_and_its_weights_alone(base: Path, finished: TrainingResult):
    adapted = load_adapted(finished.checkpoint)[0].model.state_dict()
    for name, tensor in load_checkpoint(base, device="cpu").model.state_dict().items():
        parent, _, last = name.rpartition(".")
        wrapped = f"{parent}.linear.{last}"
        assert torch.equal(adapted.get(name, adapted.get(wrapped)), tensor)
    course = [json.loads(line)["held_out_bits"] for line in finished.metrics.read_text().splitlines()]
    assert course[1] < course[0] < 9.0
    names = {path.name for path in finished.output.iterdir()}
    assert names == {"adapter.safetensors", "config.yaml", "loss.png", "metrics.jsonl", "resume.ckpt", "summary.json"}


def test_the_optimiser_and_resume_points_hold_the_corrections_alone(finished: TrainingResult):
    point = torch.load(finished.resume_point, weights_only=True)
    tensors = corrections(finished.checkpoint)
    assert {name.removeprefix("model.") for name in point["state_dict"]} == set(tensors)
    (optimizer,) = point["optimizer_states"]
    assert len(optimizer["state"]) == len(tensors)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert sum(state["exp_avg"].numel() for state in optimizer["state"].values()) == numbers


def test_merged_it_gives_the_bits_that_were_reported(finished: TrainingResult, tmp_path: Path):
    merge_adapter(finished.checkpoint, tmp_path / "merged")
    still = ["run.steps=1", "optimizer.learning_rate=1e-30", "optimizer.final_learning_rate=0"]
    config = lora(tmp_path / "merged", *still, "optimizer.weight_decay=0", "lora.rank=0")
    again = train(config, output=tmp_path / "measured", progress=False)
    assert again.held_out_bits == finished.held_out_bits


@pytest.mark.parametrize(("step", "number"), [(1, signal.SIGINT), (4, signal.SIGTERM)])
def test_an_interrupted_run_ends_with_the_corrections_of_an_uninterrupted_one(
    step: int, number: int, base: Path, finished: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "run"
    original = LanguageModelTraining.training_step

    def training_step(self: LanguageModelTraining, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step + 1 == step:
            signal.raise_signal(number)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelTraining, "training_step", training_step)
        with pytest.raises(TrainingInterrupted):
            train(lora(base), output=output, progress=False)
    torch.manual_seed(99)  # dropout does not hang on what was drawn before
    resumed = train(lora(base), output=output, resume=True, progress=False)
    whole = corrections(finished.checkpoint)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in corrections(resumed.checkpoint).items())
    assert resumed.held_out_bits == finished.held_out_bits


def test_another_seed_draws_other_corrections(base: Path, finished: TrainingResult, tmp_path: Path):
    def drawn(output: Path, seed: int) -> torch.Tensor:
        result = train(lora(base, "run.steps=1", f"run.seed={seed}"), output=output, progress=False)
        return corrections(result.checkpoint)["blocks.0.mlp.l1.down"]

    first = drawn(tmp_path / "first", 0)
    assert torch.equal(first, drawn(tmp_path / "again", 0))
    assert not torch.allclose(first, drawn(tmp_path / "other", 1), atol=0.1)


def test_passes_of_a_step_draw_dropout_of_their_own_and_without_it_make_the_joined_step(base: Path, tmp_path: Path):
    def trained(name: str, *overrides: str) -> dict[str, torch.Tensor]:
        options = ("run.steps=2", "run.precision=64-true", *overrides)
        return corrections(train(lora(base, *options), output=tmp_path / name, progress=False).checkpoint)

    still = trained("joined", "lora.dropout=0")
    several = trained("several", "lora.dropout=0", "run.micro_batch_size=1")
    for name, tensor in several.items():
        torch.testing.assert_close(tensor, still[name], rtol=1e-6, atol=1e-6)
    assert not torch.equal(trained("dropped")["blocks.0.mlp.l1.up"], still["blocks.0.mlp.l1.up"])


def test_a_run_is_not_resumed_on_another_base_or_on_none(base: Path, tmp_path: Path):
    moving = tmp_path / "base"
    shutil.copytree(base, moving)
    result = train(lora(moving), output=tmp_path / "run", progress=False)
    shutil.rmtree(moving)
    with pytest.raises(CheckpointNotFound, match="base does not exist"):
        train(lora(moving), output=tmp_path / "run", resume=True, progress=False)
    write_base(moving, seed=1)
    with pytest.raises(AdapterBaseError, match=r"resume\.ckpt: .*base is another base, its weights_sha256 is"):
        train(lora(moving), output=tmp_path / "run", resume=True, progress=False)
    shutil.rmtree(moving)
    shutil.copytree(base, moving)
    again = train(lora(moving), output=tmp_path / "run", resume=True, progress=False)
    assert again.held_out_bits == result.held_out_bits


def test_a_run_is_not_resumed_with_other_corrections(base: Path, finished: TrainingResult, tmp_path: Path):
    with pytest.raises(ResumeError, match=r"lora\.rank"):
        train(lora(base, "lora.rank=3"), output=finished.output, resume=True, progress=False)
    output = tmp_path / "run"
    shutil.copytree(finished.output, output)
    point = torch.load(output / "resume.ckpt", weights_only=True)
    del point["state_dict"]["model.blocks.0.mlp.l1.up"]
    torch.save(point, output / "resume.ckpt")
    with pytest.raises(ResumeError, match=r"holds other corrections, by model\.blocks\.0\.mlp\.l1\.up"):
        train(lora(base), output=output, resume=True, progress=False)


def test_a_run_that_began_before_there_were_corrections_can_be_resumed(tmp_path: Path):
    config = apply_overrides(
        small_config(), [*RUN, "model.pattern=S", "model.hidden_size=8", "model.num_heads=2", "model.filter_groups=4"]
    )
    output = tmp_path / "run"
    train(apply_overrides(config, ["~lora"]), output=output, progress=False)
    assert "lora" not in (output / "config.yaml").read_text()
    train(config, output=output, resume=True, progress=False)
    with pytest.raises(ResumeError, match="lora"):
        train(derive(config, {"lora.alpha": 2.0}), output=output, resume=True, progress=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.initial_checkpoint=None"], r"lora\.rank: got 2; accepted is 0 without run\.initial_checkpoint"),
        (["lora.targets=[l4]"], r"lora\.targets: got \['l4'\]; accepted is names of plain linear layers: target 'l4'"),
        (["lora.targets=[]"], r"lora\.targets: got \[\]; accepted is None or a list of one name or more"),
        (["lora.rank=-1"], r"lora\.rank: got -1; accepted is a whole number of at least 0"),
        (["lora.dropout=1.0"], r"lora\.dropout: got 1\.0; accepted is a number from 0 to below 1"),
        (["lora.alpha=0"], r"lora\.alpha: got 0.*; accepted is a finite number above 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    overrides: list[str], message: str, base: Path, tmp_path: Path
):
    with pytest.raises(SettingError, match=message):
        train(lora(base, *overrides), output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_only_the_layers_that_are_named_get_a_correction(base: Path):
    network = load_checkpoint(base, device="cpu").model
    settings = LoraSettings(rank=2, targets=["blocks.0.mlp.l3", "Wqkv"])
    names = ["blocks.0.mlp.l3", "blocks.1.inner_mha_cls.Wqkv"]
    assert adapt(network, settings) == names
    assert [name for name, module in network.named_modules() if isinstance(module, LowRankLinear)] == names
    with pytest.raises(SettingError, match=r"since a Embedding has none of projections, .*l3"):
        adapt(torch.nn.Embedding(2, 2), LoraSettings(rank=2))
