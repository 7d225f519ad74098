"""Tests of fetching checkpoints from a hub, against one on the loopback interface."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import huggingface_hub
import pytest
import torch

from packages.inference.tests.checkpoint.fake_hub import COMMIT, running_hub
from packages.inference.tests.checkpoint.foreign_checkpoints import mbridge_tensors, savanna_tensors, write_mbridge
from packages.inference.tests.commands.running import run
from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import load_checkpoint, save_checkpoint
from subquad.inference.checkpoint import convert_checkpoint, fetch_checkpoint, hub_address
from subquad.inference.errors import CheckpointError, CheckpointHashMismatch, CheckpointNotFound, HubUnavailable
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2

ADDRESS = hub_address("hf:org/name")


@pytest.fixture
def hub(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_hub() as running:
        yield running


@pytest.fixture
def fetch(hub, tmp_path):
    def fetch(read="vortex", address=ADDRESS, **options):
        return fetch_checkpoint(address, read=read, cache=tmp_path / "cache", endpoint=hub.endpoint, **options)

    return fetch


@pytest.fixture
def native(tmp_path):
    save_checkpoint(tmp_path / "native", tiny_network(), config())
    return tmp_path / "native"


def config():
    return LazyConfig(StripedHyena2)(**TINY)


def hold(hub, folder):
    for path in folder.rglob("*"):
        if path.is_file():
            hub.files[str(path.relative_to(folder))] = path.read_bytes()


def hold_parts(hub, native, tmp_path, count=3):
    convert_checkpoint(native, tmp_path / "model.pt", read="native", write="vortex")
    data = (tmp_path / "model.pt").read_bytes()
    for number in range(count):
        name = f"name.pt.part{number}"
        hub.files[name] = data[number * len(data) // count : (number + 1) * len(data) // count]
        hub.large.add(name)
    hub.files["README.md"] = b"hello"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.pt", None),
        ("hf:org/name", ("org/name", None)),
        ("hf:org/na.me-7b@v1", ("org/na.me-7b", "v1")),
        ("hf:org/name@refs/pr/1", ("org/name", "refs/pr/1")),
    ],
)
def test_addresses_are_told_from_paths(text, expected):
    assert hub_address(text) == expected


@pytest.mark.parametrize("text", ["hf:", "hf:name", "hf:org/name/more", "hf:org/name@", "hf:../name@x y"])
def test_a_bad_address_is_refused(text):
    with pytest.raises(CheckpointNotFound, match="accepted: hf:ORG/NAME or hf:ORG/NAME@REV"):
        hub_address(text)


def test_parts_are_fetched_at_one_commit_and_converted(hub, fetch, native, tmp_path):
    hold_parts(hub, native, tmp_path)
    fetched = fetch(address=hub_address("hf:org/name@v1"))
    assert fetched.address == f"hf:org/name@{COMMIT}"
    convert_checkpoint(fetched.path, tmp_path / "back", read="vortex", write="native", config=config())
    a, b = (json.loads((tmp_path / n / "metadata.json").read_text()) for n in ("native", "back"))
    assert a["weights_sha256"] == b["weights_sha256"]
    assert {name for name, _ in hub.downloads} == {f"name.pt.part{n}" for n in range(3)}
    hub.downloads.clear()
    assert fetch() == fetched
    assert hub.downloads == []


def test_native_and_distributed_checkpoints_are_fetched_whole(hub, fetch, native, tmp_path):
    hold(hub, native)
    assert load_checkpoint(fetch("native").path, device="cpu").model.hidden_size == 64
    hub.files.clear()
    shutil.rmtree(tmp_path / "cache")
    write_mbridge(tmp_path / "mbridge", mbridge_tensors(savanna_tensors()))
    hold(hub, tmp_path / "mbridge")
    path = fetch("mbridge").path
    convert_checkpoint(path, tmp_path / "made", read="mbridge", write="native", config=config())
    load_checkpoint(tmp_path / "made", device="cpu")


def test_an_interrupted_download_goes_on_where_it_ended(hub, fetch, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1_000_000)
    data = torch.arange(2_000_000, dtype=torch.int32).numpy().tobytes()
    hub.files["name.pt"], hub.cut_after = data, 3_000_000
    hub.large.add("name.pt")
    path = fetch().path
    assert path.read_bytes() == data
    starts = [start for name, start in hub.downloads if name == "name.pt"]
    assert starts[0] == 0
    assert starts[-1] > 0


@pytest.fixture
def killed_after(monkeypatch):
    """Lets a download be interrupted after so many bytes of a file."""

    def interrupt(count):
        original, seen = huggingface_hub.utils.tqdm.update, []

        def update(self, n=1):
            seen.append(n)
            if sum(seen) >= count:
                monkeypatch.setattr(huggingface_hub.utils.tqdm, "update", original)
                raise KeyboardInterrupt
            return original(self, n)

        monkeypatch.setattr(huggingface_hub.utils.tqdm, "update", update)

    return interrupt


def test_a_second_run_goes_on_where_the_first_was_interrupted(hub, fetch, killed_after, tmp_path, monkeypatch):
    data = torch.arange(2_000_000, dtype=torch.int32).numpy().tobytes()
    hub.files = {"name.pt.part0": data[:5_000_000], "name.pt.part1": data[5_000_000:]}
    hub.large = set(hub.files)
    killed_after(3_000_000)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert hub.downloads == [("name.pt.part0", 0)]
    usage, kept = namedtuple("usage", "total used free"), 3 << 20
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, len(data) - kept))  # what is there takes no room
    path = fetch().path
    assert hub.downloads == [("name.pt.part0", 0), ("name.pt.part0", kept), ("name.pt.part1", 0)]
    assert b"".join(path.with_name(f"name.pt.part{n}").read_bytes() for n in range(2)) == data
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_a_damaged_beginning_is_found_by_the_digest_and_fetched_anew(hub, fetch, killed_after, tmp_path):
    data = torch.arange(2_000_000, dtype=torch.int32).numpy().tobytes()
    hub.files, hub.large = {"name.pt": data}, {"name.pt"}
    for damage in (lambda old: b"x" + old[1:], lambda old: old + data):  # one byte, and more than there is
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        killed_after(3_000_000)
        with pytest.raises(KeyboardInterrupt):
            fetch()
        (kept,) = (tmp_path / "cache").rglob("*.incomplete")
        longer = len(damage(kept.read_bytes())) > len(data)
        kept.write_bytes(damage(kept.read_bytes()))
        if not longer:
            with pytest.raises(CheckpointHashMismatch, match="it was removed, try again"):
                fetch()
        assert fetch().path.read_bytes() == data


def test_a_hub_that_sends_all_whatever_is_asked_for_is_understood(hub, fetch, killed_after):
    data = torch.arange(2_000_000, dtype=torch.int32).numpy().tobytes()
    hub.files, hub.large, hub.ranges = {"name.pt": data}, {"name.pt"}, False
    killed_after(3_000_000)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert fetch().path.read_bytes() == data


def test_a_hub_that_stops_sending_is_asked_again_and_then_told_of(hub, fetch, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.files, hub.large, hub.silent = {"name.pt": bytes(3_000_000)}, {"name.pt"}, True
    with pytest.raises(HubUnavailable, match=r"hf:org/name: name\.pt cannot be fetched: "):
        fetch()
    assert 1 < len(hub.downloads) < 10
    hub.silent = False
    assert fetch().path.stat().st_size == 3_000_000


@pytest.mark.parametrize("large", [True, False])
def test_a_file_that_is_not_what_the_hub_says_is_removed(hub, fetch, large):
    hub.files["name.pt"], hub.lies = b"weights" * 1000, {"name.pt"}
    hub.large = {"name.pt"} if large else set()
    with pytest.raises(CheckpointHashMismatch, match=r"name\.pt has the digest .*, the hub says .*; it was removed"):
        fetch()
    hub.lies.clear()
    assert fetch().path.read_bytes() == b"weights" * 1000


def test_room_on_disk_is_checked_before_anything_is_fetched(hub, fetch, tmp_path, monkeypatch):
    hub.files["name.pt"] = b"x" * 6000
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10_000))
    with pytest.raises(CheckpointError, match=r"needs 12,000 bytes and has 10,000 free"):
        fetch(target=tmp_path / "made")
    assert hub.downloads == []
    assert fetch().path.stat().st_size == 6000
    fetch(target=tmp_path / "made")


def test_a_repository_without_one_checkpoint_is_refused(hub, fetch):
    hub.files = {"README.md": b"x", "a.pt": b"1", "b.pt": b"2"}
    with pytest.raises(
        CheckpointNotFound, match=r"hf:org/name holds a\.pt, b\.pt; accepted: one checkpoint, or name\.pt"
    ):
        fetch()
    for read in ("native", "mbridge"):
        with pytest.raises(CheckpointNotFound, match=rf"holds no {read} checkpoint; it has README\.md, a\.pt, b\.pt"):
            fetch(read)
    hub.files["name.pt"] = b"3"
    assert fetch().path.name == "name.pt"


@pytest.mark.parametrize("digest", ["../../../../../elsewhere", "ABSOLUTE", ""])
def test_a_digest_that_is_none_leads_nowhere(hub, fetch, tmp_path, digest):
    digest = digest.replace("ABSOLUTE", str(tmp_path / "elsewhere"))
    hub.files["name.pt"], hub.says = b"x", {"sha256": digest}
    hub.large.add("name.pt")
    with pytest.raises(HubUnavailable, match=r"'name\.pt' has the sha256 .*; accepted: 64 hexadecimal digits"):
        fetch()
    assert not list(tmp_path.rglob("elsewhere*"))
    assert hub.downloads == []


@pytest.mark.parametrize("commit", ["../../elsewhere", "main", None])
def test_a_commit_is_a_digest(hub, fetch, commit):
    hub.files["name.pt"], hub.says = b"x", {"sha": commit}
    with pytest.raises(HubUnavailable, match=f"names the commit '{commit}'; accepted: 40 hexadecimal digits"):
        fetch()


@pytest.mark.parametrize("name", ["../elsewhere", "a/../../elsewhere", "/elsewhere", ".", "a//b"])
def test_a_name_that_leads_out_of_the_repository_is_refused(hub, fetch, tmp_path, name):
    hub.files = {".metadata": b"x", name: b"y"}
    with pytest.raises(HubUnavailable, match=f"lists '{name}'; accepted: names inside the repository"):
        fetch("mbridge")
    assert hub.downloads == []


def test_what_the_hub_does_not_have_is_one_line(hub, fetch):
    for address in ("hf:org/other", "hf:org/name@v9"):
        with pytest.raises(HubUnavailable, match=f"{address} cannot be fetched: ") as caught:
            fetch(address=hub_address(address))
        assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    with pytest.raises(HubUnavailable, match=r"hf:org/name cannot be fetched: ") as caught:
        fetch_checkpoint(ADDRESS, read="vortex", cache=tmp_path, endpoint="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_without_the_library_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubUnavailable, match=r"pip install 'subquad-inference\[hub\]'"):
        fetch_checkpoint(ADDRESS, read="vortex", cache=tmp_path)


@pytest.mark.parametrize(
    ("flags", "target", "text"),
    [
        (["--from", "vortex", "--to", "native", "--config", "tiny"], "native", "native exists already"),
        (["--from", "vortex", "--to", "native", "--config", "tiny", "--overwrite"], "folder", "is no checkpoint"),
        (["--from", "vortex", "--to", "savanna", "--config", "tiny"], "file", "file exists already"),
        (["--from", "vortex", "--to", "vortex", "--config", "tiny"], "new", "accepted: two different formats"),
        (["--from", "vortex", "--to", "native", "--config", "9b"], "new", "--config is '9b'; accepted: a Vortex YAML"),
        (["--from", "mbridge", "--to", "native", "--config", "9b"], "new", "--config is '9b'; accepted: a Vortex YAML"),
        (["--from", "savanna", "--to", "native"], "new", "--config is None; accepted: a Vortex YAML file, a native"),
        (["--from", "native", "--to", "vortex", "--config", "7b"], "new", "only for a source that is not native"),
        (["--from", "vortex", "--to", "native", "--config", "tiny", "--report", "no/r"], "new", "folder that exists"),
    ],
)
def test_what_is_wrong_with_a_conversion_is_told_before_anything_is_fetched(
    native, tmp_path, monkeypatch, flags, target, text
):
    def fetch(*_arguments, **_options):
        raise AssertionError("a checkpoint was fetched")

    monkeypatch.setattr("subquad.inference.checkpoint.fetch_checkpoint", fetch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    result = run("convert", "hf:org/name", target, *flags)
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_the_command_takes_an_address_and_notes_the_commit(hub, native, tmp_path):
    hold_parts(hub, native, tmp_path)
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": paths}
    arguments = ["convert", "--from", "vortex", "--to", "native", "--config", "tiny", "hf:org/name"]
    command = [sys.executable, "-m", "subquad.inference", *arguments, str(tmp_path / "made")]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "made").metadata["converted_from"] == f"hf:org/name@{COMMIT}"
