"""Fetches one locked wheel through the machine's own pip set-up and unpacks it.

usage: fetch_wheel.py NAME==VERSION OUT sha256:HEX...
       fetch_wheel.py --check NAME==VERSION sha256:HEX...

The first form writes ``OUT/site``, the wheel laid out as an importable folder, ``OUT/MODULES``, the dotted names that
it adds to Python, and ``OUT/LOCK``, the pin and its hashes. ``--check`` only tells by the exit status whether pip can
find the wheel. No index is named anywhere: pip's configuration says where to look, the hash says what is acceptable.

Modules are compiled to unchecked-hash .pyc files, so that a read-only sandbox need not compile them again. It runs on
the relocated interpreter, whose pip lies beside its standard library.
"""

import compileall
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile

PIP = [sys.executable, "-I", os.path.join(sys.prefix, "pip", "pip")]

# Where a wheel's NAME.data/KIND/ belongs below the unpacked folder (PEP 427).
DATA_FOLDERS = {"purelib": "", "platlib": "", "scripts": "bin/", "data": "data/", "headers": "include/"}


def run_pip(command: list[str], pin: str, hashes: list[str], scratch: str) -> subprocess.CompletedProcess:
    """Runs a pip command on exactly one hashed requirement; no dependencies, no source builds."""
    requirement = os.path.join(scratch, "requirement.txt")
    with open(requirement, "w") as file:
        file.write(pin + "".join(f" --hash={digest}" for digest in hashes) + "\n")
    options = ["-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check"]
    return subprocess.run([*PIP, *command, *options, "-r", requirement], stderr=subprocess.PIPE, text=True, check=False)


def place(path: str) -> str:
    """Where a file of a wheel belongs below the unpacked folder."""
    data = re.match(r"[^/]+\.data/(\w+)/(.*)", path)
    return DATA_FOLDERS[data[1]] + data[2] if data else path


def correct_record(site: str) -> None:
    """Lets RECORD, which ``importlib.metadata`` reads, name files where they lie now."""
    for name in os.listdir(site):
        record = os.path.join(site, name, "RECORD")
        if name.endswith(".dist-info") and os.path.exists(record):
            with open(record, encoding="utf-8") as file:
                lines = file.readlines()
            with open(record, "w", encoding="utf-8") as file:
                file.writelines(place(line.rstrip("\n")) + "\n" for line in lines)


def unpack(wheel: str, out: str) -> None:
    """Lays a wheel out as an importable folder, keeping the executable bits."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = place(entry.filename)
            if not path or path.endswith("/"):
                continue
            target = os.path.join(out, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with archive.open(entry) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            if (entry.external_attr >> 16) & stat.S_IXUSR or path.startswith("bin/"):
                os.chmod(target, 0o755)


def provided_modules(folder: str, prefix: str = "") -> list[str]:
    """Dotted names that a folder on sys.path adds: regular packages and modules, looked up through namespaces."""
    names = set()
    for entry in os.scandir(folder):
        stem = entry.name.split(".")[0]
        if entry.is_dir():
            package = entry.name.isidentifier() or entry.name.endswith("-stubs")
            if any(os.path.exists(os.path.join(entry.path, "__init__" + end)) for end in (".py", ".pyi")):
                names.add(prefix + entry.name)
            elif package and entry.name != "__pycache__":
                names.update(provided_modules(entry.path, f"{prefix}{entry.name}."))
        elif entry.name.endswith((".py", ".so")) and stem.isidentifier():
            names.add(prefix + stem)
    return sorted(names)


def fetch(pin: str, out: str, hashes: list[str]) -> None:
    """Downloads, unpacks, compiles and describes one wheel."""
    site = os.path.join(out, "site")
    os.makedirs(site)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        result = run_pip(["download", "-d", scratch], pin, hashes, scratch)
        if result.returncode:
            sys.exit(f"pip cannot fetch {pin}:\n{result.stderr}")
        (wheel,) = [name for name in os.listdir(scratch) if name.endswith(".whl")]
        unpack(os.path.join(scratch, wheel), site)
    correct_record(site)
    with open(os.path.join(out, "MODULES"), "w") as file:
        file.writelines(name + "\n" for name in provided_modules(site))
    compileall.compile_dir(
        site,
        quiet=2,
        stripdir=site,
        prependdir="/" + pin.split("==")[0],
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    with open(os.path.join(out, "LOCK"), "w") as file:
        file.writelines(line + "\n" for line in [pin, wheel, *hashes])


def main() -> None:
    """Runs the form that the arguments ask for."""
    if sys.argv[1] == "--check":
        with tempfile.TemporaryDirectory() as scratch:
            sys.exit(
                run_pip(["install", "--dry-run", "--ignore-installed"], sys.argv[2], sys.argv[3:], scratch).returncode
            )
    fetch(sys.argv[1], sys.argv[2], sys.argv[3:])


if __name__ == "__main__":
    main()
