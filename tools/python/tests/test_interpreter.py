"""The build runs on its own copy of CPython 3.11, and nothing of the original is in the process."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

RUNFILES = pathlib.Path(os.environ["RUNFILES_DIR"])


def read_stamp(path: pathlib.Path) -> dict[str, str]:
    """The fields of a STAMP file."""
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def external(repository: str, path: str) -> pathlib.Path:
    """A file of another repository, whatever prefix the version of Bazel gives its folder."""
    (found,) = [folder / path for folder in RUNFILES.iterdir() if folder.name.split("~")[-1] == repository]
    return found


def mapped_files(maps: str) -> set[str]:
    """The files in a process's memory map."""
    return {line.split(None, 5)[5] for line in maps.splitlines() if "/" in line}


KINDS = sorted(external("python_kinds", "kinds").iterdir())


def test_this_process_runs_the_stamped_version() -> None:
    stamp = read_stamp(external("python", "STAMP"))
    assert "{}.{}.{}".format(*sys.version_info[:3]) == stamp["version"]
    assert sys.executable == str(external("python", "py/bin/python3"))


def test_this_process_maps_nothing_of_the_original() -> None:
    origin = read_stamp(external("python", "STAMP"))["origin"]
    files = mapped_files(pathlib.Path("/proc/self/maps").read_text())
    assert not [file for file in files if file.startswith(origin + "/")]
    assert not [path for path in sys.path if path.startswith(origin)]


def test_the_original_is_hidden_from_tests() -> None:
    origin = pathlib.Path(read_stamp(external("python", "STAMP"))["origin"])
    assert not os.path.isdir(origin) or not os.access(origin, os.R_OK) or not any(origin.iterdir())


@pytest.mark.parametrize("kind", KINDS, ids=lambda folder: folder.name)
def test_each_kind_of_build_on_this_machine_runs_from_its_copy(kind: pathlib.Path) -> None:
    stamp = read_stamp(kind / "STAMP")
    code = "import sys, ssl, ctypes; print(sys.version.split()[0]); print(open('/proc/self/maps').read())"
    output = subprocess.check_output([kind / "py/bin/python3", "-I", "-c", code], text=True)
    version, maps = output.split("\n", 1)
    assert version == stamp["version"]
    assert stamp["kind"] == kind.name
    copy = str((kind / "py").resolve())
    libpythons = {file for file in mapped_files(maps) if "libpython" in file}
    assert all(file.startswith(copy) for file in libpythons)
    assert bool(libpythons) == (kind.name == "shared")


def test_the_network_is_out_of_reach_and_loopback_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 9), timeout=5)
