"""Runs on several devices: two processes on a CPU, by the command as its users start it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from subquad.inference import load_checkpoint
from subquad.lazy_config import apply_overrides
from subquad.recipes.configs.small import config as small_config
from subquad.recipes.data import EvaluationWindows, split_documents
from subquad.recipes.errors import ResumeError, SettingError, SplitError
from subquad.recipes.training import GenomeWindows, RunSettings, read_metrics, train
from subquad.recipes.training.processes import joined_processes, process_rank
from subquad.recipes.training.settings import DataSettings
from tools.testing.oracle import assert_close

TINY = [
    *("model.pattern=S*", "model.hidden_size=8", "model.num_heads=2", "model.inner_size=8", "model.filter_groups=4"),
    *("data.genomes=[phix174]", "data.window=32", "run.steps=4", "run.validate_every=2", "run.save_every=1"),
    *("run.accelerator=cpu", "optimizer.warmup_steps=2"),
]
SECONDS = 120


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts a run in a group of processes of its own."""
    command = [sys.executable, "-m", "subquad.recipes", "train", "small", *TINY, *arguments, "--output", str(output)]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # a machine whose own name nobody knows is warned of that
    return subprocess.Popen(
        [*command, "--no-progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )


def run(output: Path, *arguments: str) -> tuple[int, str, str]:
    """Runs to the end; returns status, what was reported and what was said of failures."""
    with start(output, *arguments) as process:
        try:
            reported, said = process.communicate(timeout=SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, reported, said


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(output / "checkpoint", device="cpu").model.state_dict()


def ended_alone(group: int) -> bool:
    """Says whether no process of a group is left, some time after its first one ended."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def patchy(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Sequence, repeats and gaps in turn, so that processes have different sums of weights; and exact arithmetic."""
    path = tmp_path_factory.mktemp("genome") / "patchy.fa"
    path.write_text(
        ">patchy\n" + "".join(("ACGTTGCATTAGCCTA", "acgatcgatgtcgatt", "N" * 16)[i % 3] for i in range(150))
    )
    return [f"data.genomes=[{path}]", "data.upper_case=false", "data.window=16", "run.precision=64-true"]


@pytest.fixture(scope="module")
def joined(patchy: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that passes the windows of two."""
    output = tmp_path_factory.mktemp("joined") / "run"
    config = apply_overrides(small_config(), [*TINY, *patchy, "run.batch_size=4"])
    train(config, output=output, progress=False)
    return output


@pytest.fixture(scope="module")
def shared(patchy: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, with several passes a step in each."""
    output = tmp_path_factory.mktemp("shared") / "run"
    options = (*patchy, "run.devices=2", "run.batch_size=2", "run.micro_batch_size=1")
    status, reported, said = run(output, *options)
    assert (status, said) == (0, "")
    assert reported.count("held-out bits per base") == 1
    return output


def test_two_processes_take_the_steps_of_one_with_the_joined_batch(joined: Path, shared: Path):
    expected = weights(joined)
    for name, value in weights(shared).items():
        assert_close(value, expected[name], 1e-12)
    for own, whole in zip(read_metrics(shared / "metrics.jsonl"), read_metrics(joined / "metrics.jsonl"), strict=True):
        assert (own.step, own.learning_rate) == (whole.step, whole.learning_rate)
        assert own.train_bits == pytest.approx(whole.train_bits, rel=1e-12)
        assert own.held_out_bits == pytest.approx(whole.held_out_bits, rel=1e-12)


def test_the_folder_is_written_once_and_completely(joined: Path, shared: Path):
    assert {path.name for path in shared.iterdir()} == {path.name for path in joined.iterdir()}
    assert torch.load(shared / "resume.ckpt", weights_only=True)["global_step"] == 4


def test_a_run_is_not_resumed_on_another_number_of_devices(patchy: list[str], shared: Path):
    config = apply_overrides(small_config(), [*TINY, *patchy, "run.batch_size=2", "run.micro_batch_size=1"])
    with pytest.raises(ResumeError, match=r"the run there has other run\.devices"):
        train(config, output=shared, resume=True, progress=False)


@pytest.mark.parametrize(("number", "all_of_them"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_to_one_or_to_all_ends_all_with_one_resume_point(number: int, all_of_them: bool, tmp_path: Path):
    options = ("run.devices=2", "run.batch_size=2", "run.steps=100000")
    output = tmp_path / "run"
    with start(output, *options) as process:
        while process.poll() is None and not (output / "resume.ckpt").exists():
            time.sleep(0.05)
        (os.killpg if all_of_them else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number, said
    assert said.count("go on with --resume") == said.count("\n") == 1, said
    assert ended_alone(process.pid)
    step = torch.load(output / "resume.ckpt", weights_only=True)["global_step"]
    assert f"stopped after step {step};" in said
    assert not list(output.glob(".*"))


def test_a_run_of_two_processes_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    patchy: list[str], shared: Path, tmp_path: Path
):
    options = (*patchy, "run.devices=2", "run.batch_size=2", "run.micro_batch_size=1")
    output = tmp_path / "run"
    with start(output, *options) as process:
        while process.poll() is None and not (output / "config.yaml").exists():
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)  # before the first step
        process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert torch.load(output / "resume.ckpt", weights_only=True)["global_step"] < 4
    status, _, said = run(output, *options, "--resume")
    assert (status, said) == (0, "")
    expected = weights(shared)
    assert all(torch.equal(value, expected[name]) for name, value in weights(output).items())


def test_what_all_processes_refuse_is_said_once(tmp_path: Path):
    status, _, said = run(tmp_path / "run", "run.devices=2", "optimizer.learning_rate=1e30")
    assert status == 2
    (line,) = said.splitlines()
    assert line.startswith("error: step 2: the ")


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_every_window_goes_to_one_process_each(devices: int, monkeypatch: pytest.MonkeyPatch):
    data, settings = DataSettings(genomes=["phix174"], window=32), RunSettings(steps=3, batch_size=2)
    genome = [torch.randint(65, 85, (3000,)).to(torch.uint8).numpy()]
    split = split_documents(genome, block_length=256)
    trained, measured = [], []
    for rank in range(devices):
        windows = GenomeWindows(split, data, settings)
        monkeypatch.setattr(windows, "_place", lambda rank=rank: (devices, rank))
        trained += [list(windows.train_dataloader().batch_sampler)]
        measured += list(windows.val_dataloader().sampler)
    assert all(len(batches) == 3 for batches in trained)
    for step in range(3):
        seen = sorted(number for batches in trained for number in batches[step])
        assert seen == list(range(step * 2 * devices, (step + 1) * 2 * devices))
    assert sorted(measured) == list(range(len(EvaluationWindows(split.held_out, window=32))))


def test_fewer_held_out_windows_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch):
    split = split_documents([torch.full((100,), 65, dtype=torch.uint8).numpy()], block_length=16)
    windows = GenomeWindows(split, DataSettings(window=32), RunSettings())
    monkeypatch.setattr(windows, "_place", lambda: (50, 0))
    with pytest.raises(SplitError, match="held-out part has 1 windows; accepted is 50, one a device, or more"):
        windows.val_dataloader()


def test_more_gpus_than_there_are_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = apply_overrides(small_config(), [*TINY, "run.accelerator=gpu", "run.devices=2"])
    with pytest.raises(SettingError, match=r"run\.devices: got 2; accepted is 1 to 1, the GPUs that torch can use"):
        train(config, output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_worker_ends_behind_the_run_and_the_first_process_goes_on_as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("SUBQUAD_SHARED_RUN", "of another process")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with joined_processes(2, worker=False):
        os.environ |= {"MASTER_PORT": "2", "LOCAL_RANK": "0"}
    assert (os.environ["MASTER_PORT"], os.environ.get("LOCAL_RANK")) == ("1", None)
    with pytest.raises(SettingError, match=r"run\.devices: got 2; .*this one has had one"):
        joined_processes(2, worker=False).__enter__()
    monkeypatch.setenv("SUBQUAD_SHARED_RUN", "")
    with pytest.raises(ResumeError), joined_processes(2, worker=False):
        raise ResumeError
    monkeypatch.setenv("SUBQUAD_SHARED_RUN", "")
    with pytest.raises(SystemExit) as ended, joined_processes(2, worker=True):
        pass
    assert ended.value.code == 0
    monkeypatch.setenv("SUBQUAD_SHARED_RUN", "")
    with pytest.raises(SystemExit) as ended, joined_processes(2, worker=True):
        raise ResumeError
    assert ended.value.code == 0
    monkeypatch.setenv("SUBQUAD_SHARED_RUN", "")
    with pytest.raises(ZeroDivisionError), joined_processes(2, worker=True):
        raise ZeroDivisionError
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert process_rank() == 3
