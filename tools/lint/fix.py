"""Mends what the linters can mend in the checkout: `./bazelw run //tools/lint:fix [FILE]...`.

Without files it takes all that git tracks or would track. Paths are relative to the caller's folder.
"""

import os
import pathlib
import subprocess
import sys

RUNFILES = pathlib.Path(os.environ["RUNFILES_DIR"])


def files_of_checkout(root: pathlib.Path) -> list[pathlib.Path]:
    """Tracked and new files, but not ignored ones."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=root, text=True).split("\0")
    return [root / name for name in listed if name and (root / name).is_file()]


def main() -> int:
    """Runs ruff and buildifier over the files; returns the number of programs that still find something."""
    root = pathlib.Path(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    caller = pathlib.Path(os.environ.get("BUILD_WORKING_DIRECTORY", root))
    files = [caller / name for name in sys.argv[1:]] or files_of_checkout(root)
    python = [file for file in files if file.suffix in (".py", ".pyi")]
    starlark = [file for file in files if file.suffix == ".bzl" or file.name in ("BUILD", "WORKSPACE", "MODULE.bazel")]
    ruff = RUNFILES / os.environ["TEST_WORKSPACE"] / os.environ["LINT_RUFF"] / "bin" / "ruff"
    buildifier = RUNFILES / os.environ["TEST_WORKSPACE"] / os.environ["LINT_BUILDIFIER"]
    warnings = os.environ["LINT_BUILDIFIER_WARNINGS"]
    commands = [
        ([ruff, "check", "--fix", "--no-cache", "--quiet"], python),
        ([ruff, "format", "--no-cache", "--quiet"], python),
        ([buildifier, "-mode=fix", "-lint=fix", f"-warnings={warnings}"], starlark),
    ]
    return sum(bool(subprocess.run([*command, *each], cwd=root, check=False).returncode) for command, each in commands)


if __name__ == "__main__":
    sys.exit(main())
