"""Fetches one npm package by hash and unpacks it.

usage: fetch_npm.py NODE NPM_CLI NAME@VERSION sha512-BASE64 OUT
"""

import base64
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile


def integrity(path: str) -> str:
    """A file's hash in the form that npm writes."""
    with open(path, "rb") as file:
        return "sha512-" + base64.b64encode(hashlib.sha512(file.read()).digest()).decode()


def unpack(archive: str, out: str) -> None:
    """Lays the files of a package out below ``out``, keeping the executable bits.

    By hand, as the filters of :mod:`tarfile` only came with Python 3.11.4 and any 3.11 may run this.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            path = os.path.normpath(member.name.removeprefix("package/"))
            content = tar.extractfile(member) if member.isfile() else None
            if content is None or not member.name.startswith("package/"):
                continue
            if path.startswith(("/", "..")):
                sys.exit(f"{archive} holds {member.name}, which lies outside the package")
            target = os.path.join(out, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with content, open(target, "wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            os.chmod(target, 0o755 if member.mode & stat.S_IXUSR else 0o644)


def main() -> None:
    """Packs, compares, unpacks."""
    node, npm, package, expected, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        command = [node, npm, "pack", package, "--ignore-scripts", "--silent"]
        environment = {**os.environ, "npm_config_cache": os.path.join(scratch, "cache")}
        result = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
        archives = [name for name in os.listdir(scratch) if name.endswith(".tgz")]
        if result.returncode or len(archives) != 1:
            sys.exit(f"npm cannot fetch {package}:\n{result.stdout}{result.stderr}")
        archive = os.path.join(scratch, archives[0])
        if integrity(archive) != expected:
            sys.exit(f"{package} has the hash {integrity(archive)}, not the locked {expected}")
        unpack(archive, out)


if __name__ == "__main__":
    main()
