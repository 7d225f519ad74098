"""compile.sh, with shell scripts in place of nvcc and g++."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "compile.sh"


@pytest.fixture
def nvcc(tmp_path: Path) -> Path:
    """Prints its arguments, one a line."""
    return script(tmp_path / "nvcc", 'printf "%s\\n" "$@"')


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def run(nvcc: Path, host: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), str(nvcc), str(host), "9", "15", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", ["9.4.0", "12.2.0", "15.1.0", "15"])
def test_a_supported_compiler_is_handed_to_nvcc(tmp_path: Path, nvcc: Path, version: str) -> None:
    host = script(tmp_path / "g++", f"echo {version}")
    result = run(nvcc, host, "-c", "a file.cu")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:3] == ["--compiler-bindir", str(host), "--keep"]
    assert result.stdout.split("\n")[-3:] == ["-c", "a file.cu", ""]


@pytest.mark.parametrize("version", ["8.5.0", "16.1.0"])
def test_a_compiler_that_nvcc_does_not_take_is_refused_in_one_line(tmp_path: Path, nvcc: Path, version: str) -> None:
    host = script(tmp_path / "g++", f"echo {version}")
    result = run(nvcc, host, "-c", "file.cu")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"error: the host C++ compiler {host} is version {version}; this nvcc takes gcc 9 to 15; "
        "name another compiler by --//tools/cuda:host_compiler=PATH\n"
    )


def test_an_absent_compiler_is_refused_in_one_line(tmp_path: Path, nvcc: Path) -> None:
    result = run(nvcc, tmp_path / "absent", "-c", "file.cu")
    assert result.returncode == 1
    assert "absent does not exist" in result.stderr
    assert result.stderr.count("\n") == 1


def test_intermediate_files_get_a_folder_of_their_own_that_is_removed(tmp_path: Path, nvcc: Path) -> None:
    host = script(tmp_path / "g++", "echo 12.2.0")
    folder = Path(run(nvcc, host, "-c", "file.cu").stdout.split("--keep-dir\n")[1].split("\n")[0])
    assert folder.is_absolute()
    assert not folder.exists()
