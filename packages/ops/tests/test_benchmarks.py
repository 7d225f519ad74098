"""The benchmark's command: a table, a progress bar, and no time for what computes something else."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
INEXACT = """
from subquad.ops.causal_conv.causal_conv import compute_in_torch
from subquad.ops.dispatch import Implementation


def run(x, taps, **options):
    y, state = compute_in_torch(x, taps, **options)
    return y * (1 + 1e-3), state


def offer():
    return [Implementation("inexact", "causal_conv", lambda call: None, run)]
"""


def _run(
    *arguments: str, path: Path | None = None, status: int = 0, **options: int
) -> subprocess.CompletedProcess[str]:
    folders = [str(BENCHMARKS), *([str(path)] if path is not None else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders + [folder for folder in sys.path if folder])}
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--shape", "tiny", *arguments]
    pipes: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    result = subprocess.run(command, env=environment, text=True, check=False, **pipes)  # type: ignore[call-overload]
    assert result.returncode == status, result.stderr
    return result


def test_the_table_has_time_floor_and_error_in_each_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    result = _run("--op", "causal_conv", "modal_conv", "--json", str(file))
    record = json.loads(file.read_text())
    assert {row["op"] for row in record["rows"]} == {"causal_conv", "modal_conv"}
    assert {"device", "versions", "command", "date", "copy_bytes_per_second"} <= set(record)
    for row in record["rows"]:
        assert row["microseconds"] > 0
        assert row["times_floor"] == pytest.approx(row["microseconds"] / row["floor"])
        assert row["error"] < 2e-5
    assert len(result.stdout.splitlines()) == 1 + len(record["rows"])


def test_what_computes_something_else_is_not_timed(tmp_path: Path) -> None:
    (tmp_path / "subquad_inexact.py").write_text(INEXACT)
    information = tmp_path / "subquad_inexact-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: subquad-inexact\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[subquad.ops.backends]\ninexact = subquad_inexact:offer\n")
    file = tmp_path / "rows.json"
    options = ("--op", "causal_conv", "--case", "7 taps", "--backend", "torch", "inexact", "--json", str(file))
    result = _run(*options, path=tmp_path)
    right, wrong = json.loads(file.read_text())["rows"]
    assert right["microseconds"] > 0
    assert wrong["backend"] == "inexact"
    assert wrong["microseconds"] is None
    assert "error 1.0e-03 is too large; not timed" in result.stdout


def test_whoever_looks_on_sees_a_progress_bar() -> None:
    screen, terminal = pty.openpty()
    _run("--op", "causal_conv", "--case", "3 taps", stderr=terminal)
    os.close(terminal)
    seen = os.read(screen, 65536).decode()
    os.close(screen)
    assert "operators" in seen
    assert "100%" in seen


def test_an_operator_that_does_not_exist_is_refused_with_those_that_do() -> None:
    result = _run("--op", "conv", status=2)
    assert "invalid choice: 'conv'" in result.stderr
    assert "causal_conv" in result.stderr


def test_a_case_or_rival_that_does_not_exist_is_named_at_the_end() -> None:
    result = _run("--op", "causal_conv", "--case", "7 taps", "9 taps", "--rival", "nobody", status=2)
    assert "argument --case: nothing measured here is called '9 taps'" in result.stderr
    assert len(result.stdout.splitlines()) == 2
    result = _run("--op", "causal_conv", "--case", "7 taps", "--against", "--rival", "nobody", status=2)
    assert "argument --rival: nothing measured here is called 'nobody'" in result.stderr


def test_what_is_measured_on_a_gpu_alone_says_so_without_one() -> None:
    command = [sys.executable, str(BENCHMARKS / "long_filters.py")]
    path = os.pathsep.join([str(BENCHMARKS), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "error: there is no CUDA device" in result.stderr


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    result = _run("--op", "causal_conv", "--backend", "cudnn", status=2)
    assert "error: backend is 'cudnn'; accepted: auto, torch, triton, cuda" in result.stderr
