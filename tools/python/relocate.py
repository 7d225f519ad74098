"""Copies the running CPython, with its standard library and pip, so that it runs from another folder.

usage: python3.11 -I relocate.py OUT ORIGIN

OUT then holds ``bin/python3``, ``lib/python3.11``, ``pip/pip`` and, for a shared build, ``lib/libpython3.11.so.1.0``.
None of the machine's site-packages come along. ORIGIN is the folder that the copy must not lean on; it is
written, with the exact version and the hash of the interpreter's code, to ``OUT/../STAMP``.

A shared build names its libpython by an absolute run path in the executable. That string is overwritten in place
with ``$ORIGIN/../lib``, which is shorter, so no ELF tool is needed. The copy is then started, loads the extension
modules that pull in libraries, and is refused if it maps a file below ORIGIN: a copy that quietly runs another
interpreter's code would keep every test green.
"""

import compileall
import glob
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import zipfile

PYTHON = "python{}.{}".format(*sys.version_info[:2])
LIBRARY = f"lib{PYTHON}.so.1.0"
LEFT_OUT = ("dist-packages", "site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "__pycache__")

PROBE = """
import bz2, ctypes, hashlib, lzma, sqlite3, ssl, sys, zlib
print(sys.version.split()[0])
print(open("/proc/self/maps").read())
"""


def ignored(folder: str, names: list[str]) -> list[str]:
    """Names of the standard library that no program of ours needs, for :func:`shutil.copytree`."""
    return [
        name
        for name in names
        if name in LEFT_OUT or name.startswith("config-") or name in ("sitecustomize.py", "EXTERNALLY-MANAGED")
    ]


def copy_executable(source: str, out: str, library: str | None) -> str:
    """Copies the interpreter, and its libpython if it has one; returns the file that holds the interpreter's code."""
    with open(source, "rb") as file:
        code = file.read()
    if library:
        run_path = b"$ORIGIN/../lib\0"
        absolute = os.path.dirname(library).encode() + b"\0"
        code = code.replace(absolute, run_path.ljust(len(absolute), b"\0"))
        os.makedirs(out + "/lib", exist_ok=True)
        shutil.copyfile(library, f"{out}/lib/{LIBRARY}")
    os.makedirs(out + "/bin")
    with open(out + "/bin/python3", "wb") as file:
        file.write(code)
    os.chmod(out + "/bin/python3", 0o755)
    return f"{out}/lib/{LIBRARY}" if library else out + "/bin/python3"


def copy_pip(standard_library: str, out: str) -> None:
    """Unpacks the pip that ensurepip would install."""
    folders = [
        f"{standard_library}/ensurepip/_bundled",
        f"{standard_library}/ensurepip",
        sysconfig.get_config_var("WHEEL_PKG_DIR") or "/usr/share/python-wheels",
    ]
    wheels = [wheel for folder in folders for wheel in sorted(glob.glob(folder + "/pip-*.whl"))]
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(out + "/pip")


def loaded_libpython() -> str | None:
    """The libpython that this process runs, or None if the interpreter is in the executable."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(None, 5)[5].strip() for line in maps if LIBRARY in line}
    return paths.pop() if paths else None


def check(out: str, origin: str) -> None:
    """Starts the copy and exits with a message unless it is the same version and leaves ``origin`` alone."""
    probe = subprocess.run([out + "/bin/python3", "-I", "-c", PROBE], capture_output=True, text=True, check=False)
    if probe.returncode:
        sys.exit(f"the copy of {sys.executable} does not start: {probe.stderr.strip()}")
    version, maps = probe.stdout.split("\n", 1)
    if version != sys.version.split()[0]:
        sys.exit(f"the copy of {sys.executable} {sys.version.split()[0]} starts another interpreter, {version}")
    foreign = [line.split(None, 5)[5] for line in maps.splitlines() if f" {origin}/" in line]
    foreign += [line.split(None, 5)[5] for line in maps.splitlines() if LIBRARY in line and f" {out}/" not in line]
    if foreign:
        sys.exit(f"the copy of {sys.executable} still loads {foreign[0]}")


def main() -> None:
    """Copies, compiles, checks and stamps."""
    out, origin = os.path.realpath(sys.argv[1]), sys.argv[2]
    source = os.path.realpath(os.path.join(sys.base_prefix, "bin", PYTHON))
    standard_library = os.path.dirname(os.path.realpath(os.__file__))
    library = loaded_libpython()

    shutil.copytree(standard_library, f"{out}/lib/{PYTHON}", ignore=ignored)
    os.makedirs(f"{out}/lib/{PYTHON}/site-packages")
    code = copy_executable(source, out, library)
    copy_pip(standard_library, out)
    for folder in (f"{out}/lib", f"{out}/pip"):
        compileall.compile_dir(folder, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    check(out, origin)

    with open(code, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    with open(os.path.dirname(out) + "/STAMP", "w") as stamp:
        stamp.write(f"version {sys.version.split()[0]}\nkind {'shared' if library else 'static'}\n")
        stamp.write(f"sha256 {digest}\norigin {origin}\n")


if __name__ == "__main__":
    main()
