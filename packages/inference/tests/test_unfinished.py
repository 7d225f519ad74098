"""Tests of files and folders that have no name of their own yet."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from subquad.inference.errors import OutputError
from subquad.inference.unfinished import replaced_file, unfinished_file, unfinished_folder

HOLD = """
import sys, time
from pathlib import Path
from subquad.inference.unfinished import unfinished_file, unfinished_folder
with {"file": unfinished_file, "folder": unfinished_folder}[sys.argv[1]](Path(sys.argv[2])) as path:
    print(path, flush=True)
    time.sleep(60)
"""
KINDS = {"file": unfinished_file, "folder": unfinished_folder}


def holder(kind: str, target: Path) -> tuple["subprocess.Popen[str]", Path]:
    """Starts a process that holds an unfinished file or folder, and says which."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, kind, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_killed_process_left_is_removed_and_what_a_running_one_holds_stays(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out.pt"
    killed, left = holder(kind, target)
    running, used = holder(kind, target)
    kill(killed)
    try:
        assert left.exists()
        assert used.exists()
        with KINDS[kind](target) as path:
            assert not left.exists()
            assert sorted(tmp_path.iterdir()) == sorted([used, path])
        assert list(tmp_path.iterdir()) == [used]
    finally:
        kill(running)


@pytest.mark.parametrize(
    "name", [".out.abcdefgh.partial", ".out.pt.short.partial", ".out.pt.abcdefgh.part", "x.partial"]
)
def test_what_has_another_name_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with replaced_file(tmp_path / "out.pt") as partial:
        partial.write_text("done")
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / "out.pt").read_text() == "done"


def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replaced_file(tmp_path / "out.pt") as partial:
            partial.write_text("done")
    finally:
        os.umask(before)
    assert (tmp_path / "out.pt").stat().st_mode & 0o777 == 0o640


def test_a_name_that_leaves_no_room_for_another_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot be written: File name too long"),
        replaced_file(tmp_path / ("a" * 250)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
