"""Whole runs of a tiny network: results, resumption, interruption, refusals."""

import errno
import json
import resource
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from subquad.inference import load_checkpoint, save_checkpoint
from subquad.inference.errors import CheckpointNotFound
from subquad.lazy_config import Config, LazyConfig, TargetRefusedError, apply_overrides, derive
from subquad.recipes.configs.small import config as small_config
from subquad.recipes.errors import (
    MissingFileError,
    OutputExistsError,
    ResumeError,
    SettingError,
    SplitError,
    TrainingDiverged,
    TrainingInterrupted,
)
from subquad.recipes.training import LanguageModelTraining, RunSettings, TrainingConfig, read_metrics, train

TINY = [
    "model.pattern=SH",
    "model.hidden_size=8",
    "model.num_heads=2",
    "model.inner_size=8",
    "model.filter_groups=4",
    "data.window=32",
    "data.genomes=[phix174]",
    "optimizer.warmup_steps=2",
    "run.steps=6",
    "run.batch_size=2",
    "run.validate_every=3",
    "run.save_every=2",
    "run.accelerator=cpu",
]


def tiny(*overrides: str) -> Config[TrainingConfig]:
    return apply_overrides(small_config(), [*TINY, *overrides])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint", device="cpu", dtype="auto").model.state_dict()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tiny(), output=tmp_path_factory.mktemp("runs") / "whole", progress=False)


def stop_in_step(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    original = LanguageModelTraining.training_step

    def training_step(self: LanguageModelTraining, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step + 1 == step:
            signal.raise_signal(number)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(LanguageModelTraining, "training_step", training_step)


def test_a_run_leaves_checkpoint_metrics_curve_and_summary(finished: Any):
    names = {path.name for path in finished.output.iterdir()}
    assert names == {"checkpoint", "config.yaml", "loss.png", "metrics.jsonl", "resume.ckpt", "summary.json"}
    assert [entry.step for entry in read_metrics(finished.metrics)] == [3, 6]
    assert finished.loss_image.read_bytes().startswith(b"\x89PNG")
    summary = json.loads(finished.summary.read_text())
    assert summary["held_out_bits"] == finished.held_out_bits
    assert summary["baselines"]["0"] == finished.baselines[0]
    assert finished.steps == 6
    assert 1.9 < finished.order0_entropy < 2.0
    assert finished.held_out_bits < 9.1


def test_the_native_checkpoint_gives_the_bits_that_were_reported(finished: Any):
    from subquad.recipes.data import EvaluationWindows
    from subquad.recipes.training.loss import target_nats
    from subquad.recipes.training.sequences import load_split
    from subquad.recipes.training.settings import DataSettings

    model = load_checkpoint(finished.checkpoint, device="cpu", dtype="auto").model
    split = load_split(DataSettings(genomes=["phix174"]))
    windows = EvaluationWindows(split.held_out, window=32)
    bits = []
    for index in range(len(windows)):
        ids, scored = windows[index]
        nats = target_nats(model(ids[None, :-1]), ids[None])[0]
        bits.append(nats[scored] / torch.log(torch.tensor(2.0)))
    measured = torch.cat(bits)
    assert len(measured) == finished.held_out_bases
    assert measured.mean().item() == pytest.approx(finished.held_out_bits, rel=1e-5)


def test_the_resume_point_holds_plain_data_only(finished: Any):
    content = torch.load(finished.resume_point, weights_only=True)
    assert content["global_step"] == 6


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(finished: Any, tmp_path: Path):
    train(tiny(), output=tmp_path / "again", progress=False)
    train(tiny("run.seed=1"), output=tmp_path / "other", progress=False)
    first, again, other = weights(finished.output), weights(tmp_path / "again"), weights(tmp_path / "other")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGINT), (3, signal.SIGINT), (4, signal.SIGINT), (4, signal.SIGTERM)]
)
def test_a_run_interrupted_and_resumed_ends_with_the_weights_of_an_uninterrupted_one(
    step: int, number: int, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_in_step(step, patch, number)
        with pytest.raises(TrainingInterrupted, match=f"stopped after step {step}; go on with --resume") as stop:
            train(tiny(), output=output, progress=False)
    assert (stop.value.step, stop.value.signal_number) == (step, number)
    assert not list(output.glob(".*"))
    assert not (output / "checkpoint").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    (output / ".resume.1.part.ckpt").touch()  # as a kill would leave it
    result = train(tiny(), output=output, resume=True, progress=False)
    assert not list(output.glob(".*"))
    whole, resumed = weights(finished.output), weights(output)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert result.held_out_bits == finished.held_out_bits
    course, uninterrupted = read_metrics(result.metrics), read_metrics(finished.metrics)
    assert [entry[:4] for entry in course] == [entry[:4] for entry in uninterrupted]


def test_resuming_a_finished_run_only_reports_it_again(finished: Any):
    before = weights(finished.output)
    again = train(tiny(), output=finished.output, resume=True, progress=False)
    assert again.held_out_bits == finished.held_out_bits
    assert all(torch.equal(value, before[name]) for name, value in weights(finished.output).items())


def test_the_last_step_is_measured_even_between_two_validations(tmp_path: Path):
    result = train(tiny("run.steps=2", "run.validate_every=5"), output=tmp_path / "run", progress=False)
    assert [entry.step for entry in read_metrics(result.metrics)] == [2]


def test_an_output_with_a_run_in_it_is_refused(finished: Any, tmp_path: Path):
    with pytest.raises(OutputExistsError, match="already holds a run; give another folder, or resume it"):
        train(tiny(), output=finished.output, progress=False)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OutputExistsError):
        train(tiny(), output=file, progress=False)


def test_a_run_of_another_configuration_is_not_resumed(finished: Any, tmp_path: Path):
    with pytest.raises(ResumeError, match=r"optimizer\.warmup_steps"):
        train(tiny("optimizer.warmup_steps=3"), output=finished.output, resume=True, progress=False)
    with pytest.raises(ResumeError, match="holds no run to go on with"):
        train(tiny(), output=tmp_path / "new", resume=True, progress=False)


def test_a_run_stopped_before_its_first_resume_point_starts_anew(finished: Any, tmp_path: Path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "config.yaml").write_bytes((finished.output / "config.yaml").read_bytes())
    result = train(tiny(), output=output, resume=True, progress=False)
    assert result.held_out_bits == finished.held_out_bits


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path):
    output = tmp_path / "run"
    with pytest.raises(SettingError, match=r"run\.steps: got 0"):
        train(tiny("run.steps=0"), output=output, progress=False)
    with pytest.raises(MissingFileError, match=r"nowhere\.fa"):
        train(tiny("data.genomes=[nowhere.fa]"), output=output, progress=False)
    with pytest.raises(SettingError, match=r"config\(\)"):
        train(LazyConfig(RunSettings)(), output=output, progress=False)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match=r"run\.accelerator: got 'gpu'.*no CUDA GPU"):
            train(tiny("run.accelerator=gpu"), output=output, progress=False)
    assert not output.exists()


def test_a_run_whose_loss_diverges_stops_and_leaves_no_checkpoint(tmp_path: Path):
    output = tmp_path / "run"
    with pytest.raises(TrainingDiverged, match=r"step 2: the loss is (nan|inf); accepted is a finite number") as stop:
        train(tiny("optimizer.learning_rate=1e30", "run.save_every=1"), output=output, progress=False)
    assert "lower optimizer.learning_rate (at this step 1e+30)" in str(stop.value)
    assert torch.load(output / "resume.ckpt", weights_only=True)["global_step"] == stop.value.step - 1
    assert not (output / "checkpoint").exists()


def test_a_gradient_that_is_not_finite_reaches_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step = LanguageModelTraining.training_step

    def training_step(self: LanguageModelTraining, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        return loss + (loss - loss.detach()).sqrt() if self.trainer.global_step == 3 else loss  # sqrt'(0) is infinite

    monkeypatch.setattr(LanguageModelTraining, "training_step", training_step)
    with pytest.raises(TrainingDiverged, match=r"step 4: the norm of the gradient is (nan|inf)"):
        train(tiny("run.save_every=1"), output=tmp_path / "run", progress=False)
    point = torch.load(tmp_path / "run" / "resume.ckpt", weights_only=True)
    assert point["global_step"] == 3
    assert all(value.isfinite().all() for value in point["state_dict"].values())


def test_a_part_without_a_base_that_counts_is_refused(tmp_path: Path):
    (tmp_path / "n.fa").write_text(">n\n" + "N" * 4000)
    with pytest.raises(SplitError, match="the training part has 3600 bases, none of them a target"):
        train(tiny(f"data.genomes=[{tmp_path / 'n.fa'}]"), output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_resume_point_goes_straight_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    train(tiny("run.steps=1"), output=tmp_path / "run", progress=False)
    assert torch.load(tmp_path / "run" / "resume.ckpt", weights_only=True)["global_step"] == 1


def test_a_full_disk_names_the_file_and_leaves_the_resume_point_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_in_step(2, patch)
        with pytest.raises(TrainingInterrupted):
            train(tiny(), output=output, progress=False)
    before = (output / "resume.ckpt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            train(tiny(), output=output, resume=True, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(output / "resume.ckpt"))
    assert (output / "resume.ckpt").read_bytes() == before
    assert not list(output.glob(".*"))


def test_a_run_goes_on_from_the_network_of_a_checkpoint(finished: Any, tmp_path: Path):
    config = tiny(f"run.initial_checkpoint={finished.checkpoint}", "model.hidden_size=16", "optimizer.warmup_steps=0")
    still = ["optimizer.learning_rate=1e-30", "optimizer.final_learning_rate=0", "optimizer.weight_decay=0"]
    same = train(apply_overrides(config, still), output=tmp_path / "same", progress=False)
    assert same.held_out_bits == finished.held_out_bits
    result = train(config, output=tmp_path / "run", progress=False)
    assert result.held_out_bits < finished.held_out_bits
    before, after = weights(finished.output), weights(tmp_path / "run")
    assert {name: value.shape for name, value in before.items()} == {name: v.shape for name, v in after.items()}
    metadata = json.loads((result.checkpoint / "metadata.json").read_text())
    assert metadata["recipe"]["initial_checkpoint"] == str(finished.checkpoint)


def test_a_run_from_a_checkpoint_resumes_without_it(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    start, output = tmp_path / "start", tmp_path / "run"
    shutil.copytree(finished.checkpoint, start)
    config = tiny(f"run.initial_checkpoint={start}")
    whole = train(config, output=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_in_step(4, patch)
        with pytest.raises(TrainingInterrupted):
            train(config, output=output, progress=False)
    shutil.rmtree(start)
    assert train(config, output=output, resume=True, progress=False).held_out_bits == whole.held_out_bits
    with pytest.raises(CheckpointNotFound, match="start"):
        train(config, output=tmp_path / "new", progress=False)
    with pytest.raises(ResumeError, match=r"run\.initial_checkpoint"):
        train(tiny(), output=output, resume=True, progress=False)


def test_a_checkpoint_of_another_tokenizer_is_not_trained(finished: Any, tmp_path: Path):
    loaded = load_checkpoint(finished.checkpoint)
    save_checkpoint(tmp_path / "nucleotides", loaded.model, loaded.config, tokenizer="nucleotide")
    with pytest.raises(SettingError, match="byte tokenizer"):
        train(tiny(f"run.initial_checkpoint={tmp_path / 'nucleotides'}"), output=tmp_path / "run", progress=False)


class Deaf(torch.nn.Module):
    """A network that cannot be built on a device."""

    def __init__(self):
        super().__init__()
        self.embedding_layer = torch.nn.Embedding(512, 8)


class Bigrams(torch.nn.Module):
    """A network of somebody else's."""

    def __init__(self, width: int = 8, *, embedding: str = "embedding_layer", device: Any = None, dtype: Any = None):
        super().__init__()
        setattr(self, embedding, torch.nn.Embedding(512, width, device=device, dtype=dtype))
        self.out = torch.nn.Linear(width, 512, device=device, dtype=dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding_layer(ids))


def test_a_network_of_ones_own_trains_resumes_and_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = derive(tiny(), {"model": LazyConfig(Bigrams)(width=4)})
    with monkeypatch.context() as patch:
        stop_in_step(2, patch)
        with pytest.raises(TrainingInterrupted):
            train(config, output=tmp_path / "run", progress=False)
    result = train(config, output=tmp_path / "run", resume=True, progress=False)
    allowed = ("subquad.", f"{Bigrams.__module__}:Bigrams")
    assert isinstance(load_checkpoint(result.checkpoint, allowed_targets=allowed).model, Bigrams)
    with pytest.raises(TargetRefusedError, match="Bigrams is refused"):
        train(tiny(), output=tmp_path / "run", resume=True, progress=False)


def test_a_network_that_could_not_be_saved_is_refused_before_it_is_trained(tmp_path: Path):
    config = derive(tiny(), {"model": LazyConfig(Bigrams)(embedding="tokens")})
    with pytest.raises(SettingError, match=r"model: got 'Bigrams'; accepted is a network of tokens, whose embedding_l"):
        train(config, output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SettingError, match="model: got 'Deaf'; accepted is a class that also takes device and dtype"):
        train(derive(tiny(), {"model": LazyConfig(Deaf)()}), output=tmp_path / "run", progress=False)
