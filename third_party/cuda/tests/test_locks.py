"""The locks are whole: every entry has a hash, everything it needs is inside. Nothing is downloaded."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CUDA = Path(__file__).parents[1]
CPU_LOCK = CUDA.parent / "python" / "requirements.lock"
LOCKS = ["hub", "toolkit"]
TOOLKIT = {"nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-cuda-runtime"}
HUB = {"torch", "subquadratic-ops-torch-cu13", "megatron-core", "lightning", "grpcio", "triton"}


@dataclass(frozen=True)
class Entry:
    """One distribution of a lock."""

    version: str
    hashes: tuple[str, ...]
    needs: tuple[str, ...]


def read_lock(path: Path) -> dict[str, Entry]:
    entries = {}
    pattern = r"^(\S+)==(\S+)((?: \\\n +--hash=\S+)*)\n +# needs: (.*)$"
    for name, version, hashes, needs in re.findall(pattern, path.read_text(), re.MULTILINE):
        listed = () if needs == "nothing" else tuple(needs.split())
        entries[name] = Entry(version, tuple(re.findall(r"--hash=(\S+)", hashes)), listed)
    return entries


def direct_requirements(path: Path) -> list[Requirement]:
    found = []
    for line in path.read_text().splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            found += direct_requirements(path.parent / text.removeprefix("-r ").strip())
        elif text:
            found.append(Requirement(text))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_belongs_to_an_entry(name: str) -> None:
    lines = (CUDA / f"{name}.lock").read_text().splitlines()
    pins = [line for line in lines if line and line[0] not in "# "]
    assert len(read_lock(CUDA / f"{name}.lock")) == len(pins) > 0


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_has_one_sha256(name: str) -> None:
    for entry in read_lock(CUDA / f"{name}.lock").values():
        assert len(entry.hashes) == 1
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", entry.hashes[0])


@pytest.mark.parametrize("name", LOCKS)
def test_everything_that_an_entry_needs_is_in_the_lock(name: str) -> None:
    entries = read_lock(CUDA / f"{name}.lock")
    missing = {(each, need) for each, entry in entries.items() for need in entry.needs if need not in entries}
    assert not missing


@pytest.mark.parametrize("name", LOCKS)
def test_every_direct_requirement_is_met(name: str) -> None:
    entries = read_lock(CUDA / f"{name}.lock")
    for requirement in direct_requirements(CUDA / f"{name}.in"):
        version = entries[canonicalize_name(requirement.name)].version
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: the lock has {version}"


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_names_an_index(name: str) -> None:
    assert "://" not in (CUDA / f"{name}.lock").read_text()


def test_the_toolkit_is_complete_and_of_one_cuda() -> None:
    entries = read_lock(CUDA / "toolkit.lock")
    assert set(entries) == TOOLKIT
    assert {entry.version.rsplit(".", 1)[0] for entry in entries.values()} == {"13.0"}


def test_the_hub_holds_torch_with_its_cuda_libraries_and_the_vendor_operators() -> None:
    entries = read_lock(CUDA / "hub.lock")
    assert entries.keys() >= HUB
    assert "+" not in entries["torch"].version
    reached, waiting = set(), ["torch"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += entries[name].needs
    assert reached >= {"nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-nccl-cu13", "nvidia-cuda-runtime", "triton"}


def test_the_hub_agrees_with_the_cpu_hub_in_everything_but_torch_and_its_triton() -> None:
    ours, cpu = read_lock(CUDA / "hub.lock"), read_lock(CPU_LOCK)
    assert cpu.keys() <= ours.keys()
    assert {name for name in cpu if cpu[name].version != ours[name].version} == {"torch", "triton"}


def test_the_toolkit_and_the_hub_agree_on_the_cuda_runtime() -> None:
    toolkit, hub = read_lock(CUDA / "toolkit.lock"), read_lock(CUDA / "hub.lock")
    assert toolkit["nvidia-cuda-runtime"] == hub["nvidia-cuda-runtime"]
