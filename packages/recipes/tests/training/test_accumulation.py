"""Gradients added up over several passes of one step: the same step as one pass over all its windows."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from subquad.inference import load_checkpoint
from subquad.lazy_config import apply_overrides
from subquad.recipes.configs.small import config as small_config
from subquad.recipes.errors import TrainingDiverged, TrainingInterrupted
from subquad.recipes.training import LanguageModelTraining, TrainingResult, read_metrics, train
from tools.testing.oracle import assert_close

TINY = [
    *("model.pattern=SH", "model.hidden_size=8", "model.num_heads=2", "model.inner_size=8", "model.filter_groups=4"),
    *("data.window=32", "data.upper_case=false", "optimizer.warmup_steps=2", "run.steps=4", "run.batch_size=8"),
    *("run.validate_every=2", "run.save_every=1", "run.accelerator=cpu"),
]
UNEVEN = "run.micro_batch_size=3"  # passes of 3, 3 and 2 windows


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repeats and gaps in turn with sequence, so that passes have different sums of weights."""
    bases = torch.randint(0, 4, (4000,), generator=torch.Generator().manual_seed(0))
    letters = "".join("ACGT"[base] for base in bases.tolist())
    path = tmp_path_factory.mktemp("genome") / "patchy.fa"
    pieces = (letters[i : i + 50] for i in range(0, 4000, 50))
    path.write_text(">patchy\n" + "".join((p, p.lower(), "N" * 50)[i % 3] for i, p in enumerate(pieces)))
    return path


def run(genome: Path, output: Path, *overrides: str, **options: Any) -> TrainingResult:
    config = apply_overrides(small_config(), [*TINY, f"data.genomes=[{genome}]", *overrides])
    return train(config, output=output, progress=False, **options)


def weights(result: TrainingResult) -> dict[str, torch.Tensor]:
    return load_checkpoint(result.checkpoint, device="cpu", dtype="auto").model.state_dict()


def first_gradient(monkeypatch: pytest.MonkeyPatch, genome: Path, output: Path, *overrides: str) -> torch.Tensor:
    found = []
    clip = LanguageModelTraining.configure_gradient_clipping

    def configure_gradient_clipping(self: LanguageModelTraining, *arguments: Any, **named: Any) -> None:
        found.append(torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]))
        clip(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelTraining, "configure_gradient_clipping", configure_gradient_clipping)
        run(genome, output, "run.steps=1", *overrides)
    return found[0]


@pytest.mark.parametrize("normalization", ["normalized_weighted", "weighted"])
@pytest.mark.parametrize(("precision", "exact"), [("32-true", 2e-6), ("64-true", 1e-14)])
def test_the_gradient_of_several_passes_is_that_of_the_joined_batch(
    precision: str, exact: float, normalization: str, genome: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = (f"run.precision={precision}", f"loss.normalization={normalization}")
    joined = first_gradient(monkeypatch, genome, tmp_path / "joined", *options)
    for size in (1, 3, 4):
        micro = f"run.micro_batch_size={size}"
        assert_close(first_gradient(monkeypatch, genome, tmp_path / f"{size}", *options, micro), joined, exact)


def test_a_run_counts_measures_and_schedules_steps_not_passes(genome: Path, tmp_path: Path):
    joined = run(genome, tmp_path / "joined", "run.precision=64-true")
    several = run(genome, tmp_path / "several", "run.precision=64-true", UNEVEN)
    assert several.steps == joined.steps == 4
    for own, whole in zip(read_metrics(several.metrics), read_metrics(joined.metrics), strict=True):
        assert (own.step, own.learning_rate) == (whole.step, whole.learning_rate)
        assert own.train_bits == pytest.approx(whole.train_bits, rel=1e-12)
        assert own.held_out_bits == pytest.approx(whole.held_out_bits, rel=1e-12)
    expected = weights(joined)
    for name, value in weights(several).items():
        assert_close(value, expected[name], 1e-10)


def test_no_pass_sees_more_windows_than_asked_for(genome: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes = []
    forward = LanguageModelTraining.forward

    def watched(self: LanguageModelTraining, ids: torch.Tensor) -> torch.Tensor:
        sizes.append((len(ids), torch.is_grad_enabled()))
        return forward(self, ids)

    monkeypatch.setattr(LanguageModelTraining, "forward", watched)
    run(genome, tmp_path / "run", UNEVEN, "run.steps=2")
    assert [size for size, trained in sizes if trained] == [3, 3, 2] * 2
    assert max(size for size, _ in sizes) == 3


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_run_interrupted_between_two_passes_ends_its_step_and_resumes_exactly(
    precision: str, genome: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = (UNEVEN, f"run.precision={precision}")
    whole = run(genome, tmp_path / "whole", *options)
    early = LanguageModelTraining._backward_early
    passes = []

    def interrupted(self: LanguageModelTraining, loss: torch.Tensor) -> None:
        passes.append(loss)
        if len(passes) == 4:  # step 2, behind its second pass
            signal.raise_signal(signal.SIGTERM)
        early(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelTraining, "_backward_early", interrupted)
        with pytest.raises(TrainingInterrupted, match="stopped after step 2"):
            run(genome, tmp_path / "run", *options)
    resumed = run(genome, tmp_path / "run", *options, resume=True)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert [m[:4] for m in read_metrics(resumed.metrics)] == [m[:4] for m in read_metrics(whole.metrics)]


def test_the_size_of_a_pass_may_change_when_a_run_is_resumed(genome: Path, tmp_path: Path):
    run(genome, tmp_path / "run", UNEVEN)
    run(genome, tmp_path / "run", "run.micro_batch_size=2", resume=True)


def test_a_loss_that_is_not_finite_in_an_early_pass_ends_the_run(
    genome: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    forward = LanguageModelTraining.forward
    passes = []

    def broken(self: LanguageModelTraining, ids: torch.Tensor) -> torch.Tensor:
        passes.append(ids)
        return forward(self, ids) * (float("nan") if len(passes) == 1 else 1.0)

    monkeypatch.setattr(LanguageModelTraining, "forward", broken)
    with pytest.raises(TrainingDiverged, match="step 1: the loss is nan"):
        run(genome, tmp_path / "run", UNEVEN)


def test_a_trainer_of_ones_own_may_accumulate_batches_too(genome: Path, tmp_path: Path):
    import lightning.pytorch as pl

    from subquad.lazy_config import instantiate
    from subquad.recipes.training import DataSettings, GenomeWindows, RunSettings
    from subquad.recipes.training.sequences import load_split

    data = DataSettings(genomes=[str(genome)], window=32)
    settings = RunSettings(steps=2, batch_size=4)
    gradients = []
    for micro in (None, 3):
        torch.manual_seed(0)
        model = instantiate(apply_overrides(small_config(), TINY).model, dtype=torch.float64)
        module = LanguageModelTraining(model, steps=1, micro_batch_size=micro)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(
            max_steps=1, accumulate_grad_batches=2, accelerator="cpu", default_root_dir=tmp_path, limit_val_batches=0,
            enable_model_summary=False, precision="64-true", **quiet,
        )  # fmt: skip
        trainer.fit(module, GenomeWindows(load_split(data), data, settings))
        gradients.append(model.embedding_layer.weight.detach())
    assert_close(gradients[1], gradients[0], 1e-10)
