"""Resolves direct requirements into a hash-locked list of wheels.

usage: lock.py REQUIREMENTS.in REQUIREMENTS.lock [--constraint FILE.lock] [--skip-constraint NAME]... [--alone FILE.in]

Paths are relative to the workspace. pip resolves for this machine's platform and for the first CPython 3.11, because a
wheel that asks for a later one cannot be fetched on every machine (Debian 12 has 3.11.2), and by its own configuration;
the result names no index. Each entry of the lock is a pip requirement with its hash, followed by a comment that lists
the locked distributions it depends on, which `pip_lock.bzl` reads.

``--constraint`` keeps the versions of another lock (but for ``--skip-constraint`` names), so that two hubs agree.
``--alone`` names distributions to lock at a version whatever their metadata asks for, one ``name==version  # needs:
names`` a line: what they import is written there by hand and has to be in the lock.
Run it as ``./bazelw run //third_party/python:lock``.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

OLDEST_PYTHON = "3.11.0"
PIP_HOME = os.path.join(sys.prefix, "pip")


def canonical(name: str) -> str:
    """The normalised form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(lock: str, skipped: list[str]) -> list[str]:
    """The ``name==version`` pins of a lock, without the skipped names."""
    with open(lock) as file:
        pins = [line.split()[0] for line in file if re.match(r"[A-Za-z0-9]", line)]
    return [pin for pin in pins if canonical(pin.split("==")[0]) not in skipped]


def resolve(requirements: str, pins: list[str], *extra_options: str) -> list[dict]:
    """pip's installation report: one entry per distribution, direct and (without ``--no-deps``) indirect."""
    with tempfile.TemporaryDirectory() as scratch:
        report, constraint = os.path.join(scratch, "report.json"), os.path.join(scratch, "constraints.txt")
        with open(constraint, "w") as file:
            file.writelines(pin + "\n" for pin in pins)
        options = ["-q", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", report]
        options += ["--python-version", OLDEST_PYTHON, "--target", os.path.join(scratch, "target")]
        command = [sys.executable, "-I", os.path.join(PIP_HOME, "pip"), "install", *options, "-r", requirements]
        if subprocess.run([*command, "-c", constraint, *extra_options], check=False).returncode:
            sys.exit(f"error: pip cannot resolve {requirements}")
        with open(report) as file:
            return json.load(file)["install"]


def written_needs(requirements: str) -> dict[str, list[str]]:
    """What a file of ``--alone`` says that each of its distributions needs."""
    with open(requirements) as file:
        found = re.findall(r"^([\w.-]+)==\S+\s+# needs: (.*)$", file.read(), re.MULTILINE)
    return {canonical(name): sorted(needs.split()) for name, needs in found}


def dependencies(by_name: dict[str, dict]) -> dict[str, list[str]]:
    """For each distribution those of `by_name` that it requires on this platform, with the extras asked of it.

    pip's report tells only the extras that the direct requirements ask for; the others (``torch`` asks for
    ``cuda-toolkit[cublas,...]``) are gathered here, until no more turn up.
    """
    sys.path.insert(0, PIP_HOME)
    from pip._vendor.packaging.markers import default_environment
    from pip._vendor.packaging.requirements import Requirement

    environment = default_environment()
    extras = {name: {"", *entry.get("requested_extras", [])} for name, entry in by_name.items()}
    needs: dict[str, set[str]] = {name: set() for name in by_name}
    waiting = list(by_name)
    while waiting:
        name = waiting.pop()
        for requirement in map(Requirement, by_name[name]["metadata"].get("requires_dist", [])):
            marker, needed = requirement.marker, canonical(requirement.name)
            wanted = marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in extras[name])
            if not wanted or needed not in by_name:
                continue
            if needed != name:
                needs[name].add(needed)
            if not requirement.extras <= extras[needed]:
                extras[needed] |= requirement.extras
                waiting.append(needed)
    return {name: sorted(found) for name, found in needs.items()}


def render(entries: list[dict], source: str, alone: dict[str, list[str]]) -> str:
    """The text of the lock file."""
    by_name = {canonical(entry["metadata"]["name"]): entry for entry in entries}
    needs = {**dependencies(by_name), **alone}
    for name, wanted in alone.items():
        if missing := set(wanted) - set(by_name):
            sys.exit(f"error: {name} needs {', '.join(sorted(missing))}, which {source} does not bring")
    lines = [f"# Resolved from {source} by tools/python/lock.py; do not edit. 'needs' is read by pip_lock.bzl."]
    for name, entry in sorted(by_name.items()):
        digest = entry["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={entry['metadata']['version']} \\\n    --hash=sha256:{digest}")
        lines.append("    # needs: " + (" ".join(needs[name]) or "nothing"))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the lock beside its source, replacing the old one only once everything is resolved."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("requirements")
    parser.add_argument("lock")
    parser.add_argument("--constraint")
    parser.add_argument("--skip-constraint", action="append", default=[])
    parser.add_argument("--alone")
    options = parser.parse_args()
    os.chdir(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    pins = constraints(options.constraint, options.skip_constraint) if options.constraint else []
    entries, alone = resolve(options.requirements, pins), {}
    if options.alone:
        entries, alone = entries + resolve(options.alone, [], "--no-deps"), written_needs(options.alone)
    text = render(entries, options.requirements, alone)
    with open(options.lock + ".new", "w") as file:
        file.write(text)
    os.replace(options.lock + ".new", options.lock)
    print(f"{options.lock}: {text.count('--hash=')} distributions")


if __name__ == "__main__":
    main()
