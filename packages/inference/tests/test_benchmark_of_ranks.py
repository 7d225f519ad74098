"""The benchmark of a network that processes share, on the CPU: its rows, its reasons, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from packages.inference.tests.processes import alive, followers, own_words

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Starts the benchmark on the tiny network, in a process group of its own like that of a shell."""
    folders = [str(BENCHMARKS), *(folder for folder in sys.path if folder)]
    return subprocess.Popen(
        [sys.executable, str(BENCHMARKS / "tensor_parallel.py"), "--size", "tiny", "--device", "cpu", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        process_group=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]", status: int) -> tuple[str, str]:
    """Waits for the end with a status; returns what was printed and what was said on stderr."""
    try:
        printed, said = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == status, printed + said
    return printed, said


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """Reads lines up to the one that holds a text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came: {ended(process, 0)}")


def test_rows_have_times_memory_and_how_steps_run(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    printed, _ = ended(start("--ranks", "1", "2", "--repeats", "1", "--json", str(file)), 0)
    record = json.loads(file.read_text())
    assert {"title", "plot", "date", "command", "device", "versions", "floor_assumes"} <= set(record)
    shapes = [("prefill", 1, 300), ("decode", 1, 300), ("decode", 4, 48)]
    rows = record["rows"]
    assert [(r["ranks"], r["case"], r["batch"], r["length"]) for r in rows] == [(n, *s) for n in (1, 2) for s in shapes]
    assert all(row["milliseconds"] is not None and row["problem"] is None for row in rows)
    assert {row["steps"] for row in rows if row["case"] == "decode"} == {
        "decode steps run eagerly: the network is on cpu"
    }
    alone, shared = rows[0], rows[3]
    assert len(shared["peak_bytes_per_device"]) == 2
    assert min(shared["peak_bytes_per_device"]) > shared["weight_bytes_per_device"]
    kept = 512 * 64 * 4 + 17 * 64 * 4 + 8 * 64 * 4 + 2 * 8 * 4 + 4 * 32  # embedding, norms, biases, angles
    assert alone["weight_bytes_per_device"] / 2 < shared["weight_bytes_per_device"]
    assert shared["weight_bytes_per_device"] < alone["weight_bytes_per_device"] / 2 + kept
    for text in ("making weights on 2 ranks", "rank 1 of 2: 0.001 GB", "2 ranks are ready after", "running, 1 times"):
        assert text in printed
    assert len(printed.splitlines()) == 2 * (2 + 2 * len(shapes)) + 3


def test_ranks_that_cannot_share_the_network_have_the_reason_in_their_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    printed, _ = ended(start("--ranks", "3", "--case", "prefill", "--json", str(file)), 1)
    (row,) = json.loads(file.read_text())["rows"]
    assert row["problem"].startswith("ConfigurationError: 8 filter groups cannot be dealt out to 3 ranks evenly")
    assert row["problem"] in printed


def test_a_rank_that_dies_leaves_its_reason_and_nobody_behind(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    process = start("--repeats", "200", "--json", str(file))
    read_until(process, "prefill   1 x 300    running")
    (follower,) = followers(process.pid)
    os.kill(follower, signal.SIGKILL)
    ended(process, 1)
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 3
    assert all("rank 1 of 2 ended (by signal SIGKILL)" in row["problem"] for row in rows)


def test_ctrl_c_keeps_the_rows_that_are_done_and_leaves_nobody_behind(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    process = start("--repeats", "50", "--json", str(file))
    read_until(process, "decode    1 x 300    running")
    (follower,) = followers(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, said = ended(process, 130)
    assert own_words(said) == "interrupted\n"
    assert [row["case"] for row in json.loads(file.read_text())["rows"]] == ["prefill"]
    assert not alive(follower)


def test_too_few_devices_are_said_with_their_number() -> None:
    printed, _ = ended(start("--device", "cuda", "--case", "prefill", "--ranks", "99"), 1)
    assert f"tensor_parallel is 99; accepted: up to {torch.cuda.device_count()}, the CUDA devices" in printed
