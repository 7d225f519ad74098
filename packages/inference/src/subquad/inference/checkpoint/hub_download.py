"""A large file of a hub, downloaded so that a later run goes on where this one ends, even where it is killed.

huggingface_hub itself begins such a file anew. What this module completes lies where that library looks for it.

Source: "Understand caching" of its documentation (``models--ORG--NAME/blobs/SHA256``).
"""

import fcntl
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = 1 << 20
_ATTEMPTS = 5  # without a single byte in between
_PATIENCE = 60.0  # seconds


def blob_path(cache: Path, repository: str, sha256: str) -> Path:
    """Returns where a file of a repository ``ORG/NAME`` is kept, whatever it is called there."""
    return cache / f"models--{repository.replace('/', '--')}" / "blobs" / sha256


def kept_bytes(blob: Path) -> int:
    """Returns how much of a file an earlier run has left."""
    partial = _partial(blob)
    return partial.stat().st_size if partial.exists() else 0


def download_large(hub: Any, url: str, blob: Path, size: int, *, title: str) -> None:
    """Downloads a file, from where an earlier run ended; its digest is left to the caller.

    Connections that break are made anew. Only one process at a time writes to a file; others wait for it.

    Args:
      hub: The module huggingface_hub.
      url: The file.
      blob: Where it goes when it is complete.
      size: Its bytes.
      title: What its progress is called on a terminal.

    Raises:
      OSError: The hub refuses (``HfHubHTTPError``), or the disk.
      Exception: Of the HTTP library, when the hub cannot be reached any more.
    """
    partial = _partial(blob)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if blob.exists():  # another process has completed it, and what was opened here is a new file
            partial.unlink(missing_ok=True)
            return
        if file.tell() > size:
            _begin_anew(file)
        with hub.utils.tqdm(
            desc=title, total=size, initial=file.tell(), unit="B", unit_scale=True, disable=None
        ) as shown:
            _fill(hub, url, file, size, shown)
        os.replace(partial, blob)


def _fill(hub: Any, url: str, file: BinaryIO, size: int, shown: Any) -> None:
    failures = 0
    while (before := file.tell()) < size:
        try:
            _append(hub, url, file, shown)
        except OSError:  # the hub's answer, or the disk
            raise
        except Exception:  # the HTTP library has many, and the versions of the hub's library have several
            failures = failures + 1 if file.tell() <= before else 0
            if failures == _ATTEMPTS:
                raise
            time.sleep(failures)
        finally:
            file.flush()


def _append(hub: Any, url: str, file: BinaryIO, shown: Any) -> None:
    start = file.tell()
    headers = hub.utils.build_hf_headers(library_name="subquad-inference")
    headers |= {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
    with hub.get_session().stream("GET", url, headers=headers, timeout=_PATIENCE) as response:
        hub.utils.hf_raise_for_status(response)
        if response.status_code != 206:  # all of it, whatever was asked for
            _begin_anew(file)
            shown.update(-start)
        for block in response.iter_bytes(_BLOCK):
            file.write(block)
            shown.update(len(block))
    if file.tell() == start:
        raise ConnectionError(f"{url} gave nothing from byte {start} on")


def _begin_anew(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.subquad.incomplete")
