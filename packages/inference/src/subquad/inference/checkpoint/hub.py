"""Checkpoints on a Hugging Face hub, named ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``; needs the extra ``hub``."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from subquad.inference.checkpoint.files import sha256_of
from subquad.inference.checkpoint.hub_download import blob_path, download_large, kept_bytes
from subquad.inference.errors import CheckpointError, CheckpointHashMismatch, CheckpointNotFound, HubUnavailable

_PREFIX = "hf:"
_ADDRESS = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_FILE = re.compile(r"(?P<stem>[^/]+\.pt)(\.part\d+)?")
_NATIVE = re.compile(r"(config\.yaml|metadata\.json|[^/]+\.safetensors(\.index\.json)?)")
_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_NO_CHECKPOINT = (".gitattributes", "README.md", "LICENSE")
T = TypeVar("T")


class HubAddress(NamedTuple):
    """A repository of a hub.

    Attributes:
      repository: ``ORG/NAME``.
      revision: A branch, tag or commit; None for the main branch.
    """

    repository: str
    revision: str | None


class HubFile(NamedTuple):
    """A file of a repository at one commit.

    Attributes:
      name: Its path there.
      size: Its bytes.
      sha256: Its digest where the hub stores it as a large file, else None.
      blob: Its Git object name.
    """

    name: str
    size: int
    sha256: str | None
    blob: str | None


class FetchedCheckpoint(NamedTuple):
    """A checkpoint that was fetched.

    Attributes:
      path: Where its file or folder is.
      address: Where it is from, with the commit.
    """

    path: Path
    address: str


def hub_address(source: str) -> HubAddress | None:
    """Reads an address; None for a plain path.

    Raises:
      CheckpointNotFound: It begins with ``hf:`` and is no address.
    """
    if not source.startswith(_PREFIX):
        return None
    match = _ADDRESS.fullmatch(source)
    if match is None:
        raise CheckpointNotFound(f"{source!r} is no address of a checkpoint; accepted: hf:ORG/NAME or hf:ORG/NAME@REV")
    return HubAddress(match["repository"], match["revision"])


def fetch_checkpoint(
    address: HubAddress,
    *,
    read: str,
    target: Path | None = None,
    cache: Path | None = None,
    endpoint: str | None = None,
) -> FetchedCheckpoint:
    """Fetches a checkpoint into the cache of huggingface_hub and checks every file's digest.

    All files are of one commit. What an interrupted call has fetched is kept, that of an unfinished large file too, and
    the next call goes on from there.

    Args:
      address: The repository.
      read: The format, which decides the files.
      target: What will be made of it; its disk must have room for as much again.
      cache: Default: that of huggingface_hub.
      endpoint: Default: that of huggingface_hub, which reads ``HF_ENDPOINT``.

    Raises:
      HubUnavailable: huggingface_hub is not installed, the hub cannot be reached, or it has no such repository.
      CheckpointNotFound: The repository holds no checkpoint of this format, or several.
      CheckpointError: A disk has too little room.
      CheckpointHashMismatch: A file is not what the hub says it is; it is removed from the cache.
    """
    hub = _library()
    api = hub.HfApi(endpoint=endpoint, library_name="subquad-inference")
    name = f"hf:{address.repository}" + (f"@{address.revision}" if address.revision else "")
    information = _asked(
        name, lambda: api.model_info(address.repository, revision=address.revision, files_metadata=True)
    )
    commit = information.sha
    listed = [_hub_file(sibling) for sibling in information.siblings or ()]
    files = _chosen(name, listed, read)
    _check_answer(name, commit, files)
    folder = Path(cache or hub.constants.HF_HUB_CACHE)

    def download(file: HubFile, **options: Any) -> Any:
        return _asked(
            f"{name}: {file.name}",
            lambda: api.hf_hub_download(address.repository, file.name, revision=commit, cache_dir=folder, **options),
        )

    missing = [file if download(file, dry_run=True).will_download else None for file in files]
    blobs = {file.name: blob_path(folder, address.repository, file.sha256) for file in files if file.sha256}
    wanted = [_missing_bytes(file, blobs) for file in missing if file is not None]
    _check_room(name, sum(wanted), sum(file.size for file in files), folder, target)
    for file in missing:
        if file is not None and file.name in blobs:
            url = hub.hf_hub_url(address.repository, file.name, revision=commit, endpoint=endpoint)
            fetch = partial(download_large, hub, url, blobs[file.name], file.size, title=file.name)
            _asked(f"{name}: {file.name}", fetch)
    paths = {file.name: Path(download(file)) for file in files}
    for file in files:
        _check_digest(name, file, paths[file.name])
    return FetchedCheckpoint(_entrance(files, paths, read), f"hf:{address.repository}@{commit}")


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise HubUnavailable("hf: addresses need huggingface_hub; pip install 'subquad-inference[hub]'") from None
    return huggingface_hub


def _asked(name: str, ask: Callable[[], T]) -> T:
    """Asks the hub; its many errors, and those of its HTTP library, become one of ours."""
    try:
        return ask()
    except (KeyboardInterrupt, CheckpointError):
        raise
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise HubUnavailable(f"{name} cannot be fetched: {type(error).__name__}: {text}") from error


def _hub_file(sibling: Any) -> HubFile:
    lfs = getattr(sibling, "lfs", None)
    return HubFile(sibling.rfilename, max(sibling.size or 0, 0), getattr(lfs, "sha256", None), sibling.blob_id)


def _check_answer(name: str, commit: object, files: Sequence[HubFile]) -> None:
    """Checks what becomes a part of paths in the cache: whoever answers for the hub decides about these files alone.

    Raises:
      HubUnavailable: A commit or digest is none, or a name may lead out of its folder.
    """
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise HubUnavailable(f"{name}: the hub names the commit {str(commit)[:80]!r}; accepted: 40 hexadecimal digits")
    for file in files:
        path = PurePosixPath(file.name)
        if str(path) != file.name or not path.parts or path.is_absolute() or ".." in path.parts:
            raise HubUnavailable(f"{name}: the hub lists {file.name[:80]!r}; accepted: names inside the repository")
        if file.sha256 is not None and not _SHA256.fullmatch(file.sha256):
            digest = f"the sha256 {file.sha256[:80]!r}; accepted: 64 hexadecimal digits"
            raise HubUnavailable(f"{name}: the hub says that {file.name[:80]!r} has {digest}")


def _chosen(name: str, files: Sequence[HubFile], read: str) -> list[HubFile]:
    """Returns the files of a checkpoint of the given format."""
    if read == "native":
        found = [file for file in files if _NATIVE.fullmatch(file.name)]
    elif read == "mbridge":
        has_metadata = any(Path(file.name).name == ".metadata" for file in files)
        found = [file for file in files if has_metadata and file.name not in _NO_CHECKPOINT]
    else:
        stems = {match["stem"] for file in files if (match := _FILE.fullmatch(file.name))}
        own = name.partition("@")[0].rpartition("/")[2] + ".pt"
        if own in stems:
            stems = {own}
        if len(stems) > 1:
            raise CheckpointNotFound(f"{name} holds {', '.join(sorted(stems))}; accepted: one checkpoint, or {own}")
        found = [file for file in files if (match := _FILE.fullmatch(file.name)) and match["stem"] in stems]
    if not found:
        listed = ", ".join(sorted(file.name for file in files)[:8]) or "no file"
        raise CheckpointNotFound(f"{name} holds no {read} checkpoint; it has {listed}")
    return found


def _missing_bytes(file: HubFile, blobs: Mapping[str, Path]) -> int:
    """Returns how much of a file is still to be fetched."""
    return file.size - (min(kept_bytes(blobs[file.name]), file.size) if file.name in blobs else 0)


def _check_room(name: str, fetched: int, made: int, cache: Path, target: Path | None) -> None:
    """Adds up what each disk has to take: bytes to be fetched into the cache, and bytes to be made of all."""
    wanted = [(cache, fetched)]
    if target is not None:
        wanted.append((target, made))
    disks: dict[int, tuple[Path, int]] = {}
    for path, size in wanted:
        place = path.absolute()
        while not place.exists():
            place = place.parent
        first, before = disks.get(os.stat(place).st_dev, (place, 0))
        disks[os.stat(place).st_dev] = (first, before + size)
    for place, size in disks.values():
        free = shutil.disk_usage(place).free
        if size > free:
            raise CheckpointError(f"{name}: the disk of {place} needs {size:,} bytes and has {free:,} free")


def _check_digest(name: str, file: HubFile, path: Path) -> None:
    if file.sha256 is not None:
        found, expected = sha256_of(path), file.sha256
    elif file.blob is not None:
        data = path.read_bytes()
        found, expected = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), file.blob
    else:
        return
    if found != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise CheckpointHashMismatch(
            f"{name}: {file.name} has the digest {found}, the hub says {expected}; it was removed, try again"
        )


def _entrance(files: Sequence[HubFile], paths: dict[str, Path], read: str) -> Path:
    """Returns what a reader of the format is given."""
    first = paths[files[0].name]
    if read == "native":
        return first.parent
    if read == "mbridge":
        return next(path for name, path in paths.items() if Path(name).name == ".metadata").parent
    return first.with_name(re.sub(r"\.part\d+$", "", first.name))
