"""Fetches one npm package by hash and unpacks it.

usage: fetch_npm.py NODE NPM_CLI NAME@VERSION sha512-BASE64 OUT
"""

import base64
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile


def integrity(path: str) -> str:
    """A file's hash in the form that npm writes."""
    with open(path, "rb") as file:
        return "sha512-" + base64.b64encode(hashlib.sha512(file.read()).digest()).decode()


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
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isfile() and member.name.startswith("package/")]
            for member in members:
                member.name = member.name.removeprefix("package/")
            tar.extractall(out, members, filter="data")


if __name__ == "__main__":
    main()
