"""A Hugging Face hub on the loopback interface, for tests: repositories of files, ranges, and faults on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "5" * 40


class FakeHub:
    """What the hub holds and what it was asked.

    Attributes:
      files: Bytes of each file of the repository ``org/name`` at its one commit.
      large: Names of the files that it stores as large ones, with a SHA-256.
      cut_after: Ends the connection of a download after so many bytes, once.
      lies: Names of the files that it sends with a byte changed.
      says: What it says in place of the truth: ``sha`` of the commit, ``sha256`` of large files.
      ranges: Sends a part of a file where one is asked for, else all of it.
      silent: Ends the connection of every download before its first byte.
      downloads: Name and first byte of every download.
      endpoint: Its address.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.large: set[str] = set()
        self.cut_after: int | None = None
        self.lies: set[str] = set()
        self.says: dict[str, object] = {}
        self.ranges, self.silent = True, False
        self.downloads: list[tuple[str, int]] = []
        self.endpoint = ""

    def description(self) -> dict[str, object]:
        """Returns what the hub says of the repository."""
        siblings = []
        for name, data in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            sibling: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
            if name in self.large:
                digest = self.says.get("sha256", hashlib.sha256(data).hexdigest())
                sibling["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        commit = self.says.get("sha", COMMIT)
        return {"_id": "1", "id": "org/name", "modelId": "org/name", "sha": commit, "siblings": siblings, "tags": []}

    def digest(self, name: str) -> str:
        """Returns the tag of a file's content."""
        return hashlib.sha256(self.files[name]).hexdigest()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return None

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            revisions = ("main", "v1", COMMIT)
            if path == "/api/models/org/name" or path in (f"/api/models/org/name/revision/{r}" for r in revisions):
                self.send(200, json.dumps(hub.description()).encode(), {"Content-Type": "application/json"}, body=body)
                return
            for revision in revisions:
                prefix = f"/org/name/resolve/{revision}/"
                name = path.removeprefix(prefix)
                if path.startswith(prefix) and name in hub.files:
                    self.send_file(name, body=body)
                    return
            code = "RevisionNotFound" if path.startswith("/api/models/org/name/") else "RepoNotFound"
            self.send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not here"}, body=body)

        def send_file(self, name: str, *, body: bool) -> None:
            data = hub.files[name]
            if name in hub.lies:
                data = data[:-1] + bytes([data[-1] ^ 1])
            headers = {"ETag": f'"{hub.digest(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if name in hub.large:
                headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{hub.digest(name)}"'}
            start, asked = 0, self.headers.get("Range")
            if asked and hub.ranges:
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if body:
                hub.downloads.append((name, start))
            self.send(206 if "Content-Range" in headers else 200, data[start:], headers, body=body)

        def send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if not body:
                return
            if hub.silent and "Accept-Ranges" in headers:
                self.close_connection = True
                return
            if hub.cut_after is not None and len(data) > hub.cut_after:
                self.wfile.write(data[: hub.cut_after])
                hub.cut_after, self.close_connection = None, True
                return
            self.wfile.write(data)

    return Handler


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Runs a hub on a free port until the block ends."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
