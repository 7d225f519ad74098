"""What becomes of a network that several processes share when one of them fails, or somebody presses Ctrl-C."""

import gc
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from packages.inference.tests.conftest import TINY, tiny_network
from packages.inference.tests.processes import alive, followers, own_words
from subquad.inference import Engine, GenerationOptions, Scheduler, SchedulerLimits, save_checkpoint
from subquad.inference.errors import CheckpointError, CheckpointHashMismatch, EngineStopped, WorkerFailed
from subquad.inference.jobs import Finished, GenerateJob
from subquad.inference.tensor_parallel import lead
from subquad.lazy_config import LazyConfig
from subquad.modules import ChannelShards, StripedHyena2

CPU = torch.device("cpu")
SHARED = {"device": "cpu", "dtype": "float64", "max_running": 2, "prefill_chunk": 16, "tensor_parallel": 2}
GREEDY = GenerationOptions(max_new_tokens=5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in float64."""
    path = tmp_path_factory.mktemp("shared") / "checkpoint"
    save_checkpoint(path, tiny_network(dtype=torch.float64), LazyConfig(StripedHyena2)(**TINY))
    return path


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Looks for followers that outlive a test."""
    yield
    gc.collect()
    assert followers(os.getpid()) == []


def part(shards: ChannelShards, device: torch.device) -> nn.Module:
    """Builds a part."""
    return StripedHyena2(**TINY, shards=shards, device=device)


def killed(shards: ChannelShards, device: torch.device) -> nn.Module:
    """Is what a rank without memory does."""
    if shards.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return part(shards, device)


def refused(shards: ChannelShards, device: torch.device) -> nn.Module:
    """Is what a rank does that cannot read its files."""
    if shards.rank == 1:
        raise CheckpointError("no such part")
    return part(shards, device)


def refused_by_all(shards: ChannelShards, device: torch.device) -> nn.Module:
    """Is what ranks do with files that none can read."""
    raise CheckpointError(f"rank {shards.rank} has no part")


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (killed, r"rank 1 of 2 ended \(by signal SIGKILL\); load the engine again"),
        (refused, r"rank 1 of 2 ended with CheckpointError: no such part \(status 1\)"),
    ],
)
def test_a_rank_that_fails_to_load_is_named_with_its_reason(
    build: Callable[[ChannelShards, torch.device], nn.Module], text: str
) -> None:
    with pytest.raises(WorkerFailed, match=text):
        lead(build, 2, CPU)
    lead(part, 2, CPU).close()


def test_what_no_rank_can_load_is_the_error_of_one_process(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="rank 0 has no part"):
        lead(refused_by_all, 2, CPU)
    damaged = tmp_path / "checkpoint"
    damaged.mkdir()
    for file in checkpoint.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointHashMismatch):
        Engine.from_checkpoint(damaged, **SHARED)


def test_a_builder_that_only_this_process_knows_ends_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    here = types.ModuleType("known_here_alone")
    exec("def build(shards, device): ...", here.__dict__)
    monkeypatch.setitem(sys.modules, here.__name__, here)
    with pytest.raises(WorkerFailed, match="ModuleNotFoundError: No module named 'known_here_alone'"):
        lead(here.build, 2, CPU)


def test_a_rank_that_ends_before_it_has_joined_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subquad.inference.tensor_parallel.workers._WORKER", "subquad.inference.no_such_module")
    with pytest.raises(WorkerFailed, match=r"rank 1 of 2 ended \(status 1\)"):
        lead(part, 2, CPU)


def test_an_engine_loaded_after_a_failure_outlives_the_failed_one(checkpoint: Path) -> None:
    first = Engine.from_checkpoint(checkpoint, **SHARED)
    expected = first.generate(["ACGT"], GREEDY)[0].ids
    os.kill(followers(os.getpid())[0], signal.SIGKILL)
    with pytest.raises(WorkerFailed, match="by signal SIGKILL"):
        first.generate(["ACGT"], GREEDY)
    second = Engine.from_checkpoint(checkpoint, **SHARED)
    del first
    gc.collect()
    assert second.generate(["ACGT"], GREEDY)[0].ids == expected
    second.close()
    third = Engine.from_checkpoint(checkpoint, **SHARED)
    del second
    gc.collect()
    assert third.generate(["ACGT"], GREEDY)[0].ids == expected
    third.close()


def test_a_rank_whose_end_takes_long_is_named_too(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that held a GPU closes its pipe long before its parent is told that it has ended."""
    ended = subprocess.Popen.wait

    def late(process: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
        status = ended(process, timeout)
        time.sleep(2.5 if timeout is None else 0.0)
        return status

    monkeypatch.setattr(subprocess.Popen, "wait", late)
    engine = Engine.from_checkpoint(checkpoint, **SHARED)
    stream = engine.stream("ACGT", GenerationOptions(max_new_tokens=200))
    next(stream)
    os.kill(followers(os.getpid())[0], signal.SIGKILL)
    with pytest.raises(WorkerFailed, match=r"rank 1 of 2 ended \(by signal SIGKILL\)"):
        list(stream)
    engine.close()


def test_captured_steps_are_given_back_before_the_ranks_part(checkpoint: Path) -> None:
    engine = Engine.from_checkpoint(checkpoint, **SHARED)
    stream = engine.stream("ACGT", GREEDY)
    next(stream)  # the reader still holds the step
    (program,) = engine.model._workers._programs
    program._graphs[True, False] = (None, None)  # stands for a graph that holds sums of NCCL
    engine.close()
    assert program._graphs == {}
    with pytest.raises(WorkerFailed, match="the network was closed"):
        list(stream)


def test_an_idle_scheduler_ends_when_a_rank_does(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine.from_checkpoint(checkpoint, **SHARED)
    limits = SchedulerLimits(max_running=2, prefill_chunk=16, max_sequence_tokens=64)
    with Scheduler(engine, limits) as scheduler:
        ticket = scheduler.generate(GenerateJob([65, 67], GREEDY))
        wait_until(lambda: ticket.done)
        assert isinstance(ticket.take()[-1], Finished)
        os.kill(followers(os.getpid())[0], signal.SIGKILL)
        wait_until(lambda: not scheduler.alive)
        with pytest.raises(EngineStopped, match="rank 1 of 2 ended"):
            scheduler.generate(GenerateJob([65, 67], GREEDY))
    assert "the engine thread ended: WorkerFailed: the tensor-parallel network has stopped" in caplog.text
    engine.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits up to 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("fails", [False, True], ids=["closed", "failed"])
def test_nccl_is_left_at_once_and_without_captured_steps(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    engine = Engine.from_checkpoint(checkpoint, **SHARED)
    engine.generate(["ACGT"], GREEDY)
    (program,) = engine.model._workers._programs
    left = []

    def leave() -> None:
        deadline = time.monotonic() + 20
        while program._graphs and time.monotonic() < deadline:  # as NCCL waits for graphs that hold sums of it
            time.sleep(0.01)
        left.append(len(program._graphs))
        dist.destroy_process_group()

    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist.distributed_c10d, "_abort_process_group", leave)
    program._graphs[True, False] = (None, None)
    if fails:
        os.kill(followers(os.getpid())[0], signal.SIGKILL)
        with pytest.raises(WorkerFailed, match="by signal SIGKILL"):
            engine.generate(["ACGT"], GREEDY)
    engine.close()
    assert left == [0]
    monkeypatch.undo()
    again = Engine.from_checkpoint(checkpoint, **SHARED)
    assert len(again.generate(["ACGT"], GREEDY)[0].ids) == 5
    again.close()


COMMAND = ["generate", "checkpoint", "--input", "prompts.txt", "--max-new-tokens", "3", "--device", "cpu"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONUNBUFFERED": "1"}


def started(folder: Path, checkpoint: Path) -> "subprocess.Popen[str]":
    """Starts a command that goes on for a long time, in a process group of its own like that of a shell."""
    (folder / "checkpoint").symlink_to(checkpoint)
    (folder / "prompts.txt").write_text("ACGT\n" * 20_000)
    command = [sys.executable, "-m", "subquad.inference", *COMMAND, "--tensor-parallel", "2", "--no-progress"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, process_group=0, **pipes)


def ended(process: "subprocess.Popen[str]") -> str:
    """Waits, and returns what was said on stderr."""
    try:
        return own_words(process.communicate(timeout=45)[1])
    finally:
        process.kill()


@pytest.mark.parametrize("at", ["start", "decode"])
def test_ctrl_c_ends_all_processes_with_one_word(checkpoint: Path, tmp_path: Path, at: str) -> None:
    process = started(tmp_path, checkpoint)
    if at == "decode":
        assert process.stdout is not None
        assert '"ids"' in process.stdout.readline()
    while not (following := followers(process.pid)):
        assert process.poll() is None
        signal.sigtimedwait([], 0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert ended(process) == "interrupted\n"
    assert process.returncode == 130
    assert not any(alive(pid) for pid in following)


def test_a_rank_that_is_killed_ends_the_command_with_one_line(checkpoint: Path, tmp_path: Path) -> None:
    process = started(tmp_path, checkpoint)
    assert process.stdout is not None
    process.stdout.readline()
    (follower,) = followers(process.pid)
    os.kill(follower, signal.SIGKILL)
    why = "rank 1 of 2 ended (by signal SIGKILL)"
    assert ended(process) == f"error: the tensor-parallel network has stopped: {why}; load the engine again\n"
    assert process.returncode == 1


def test_a_leader_that_is_killed_leaves_nobody_behind(checkpoint: Path, tmp_path: Path) -> None:
    process = started(tmp_path, checkpoint)
    assert process.stdout is not None
    process.stdout.readline()
    (follower,) = followers(process.pid)
    process.kill()
    ended(process)
    for _ in range(500):
        if not alive(follower):
            return
        signal.sigtimedwait([], 0.02)
    pytest.fail("the follower goes on")
