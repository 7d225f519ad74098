"""Runs basedpyright over the sources of one library, seeing its dependencies and nothing else.

usage: check_types.py SOURCE...

Sources are relative to the workspace. What can be imported is what is on PYTHONPATH; the mode is that of the root
pyproject.toml.
"""

import json
import os
import subprocess
import sys
import tomllib


def settings(root: str, sources: list[str]) -> dict:
    """basedpyright's settings for these sources."""
    with open(os.path.join(root, "pyproject.toml"), "rb") as file:
        shared = tomllib.load(file)["tool"]["pyright"]
    paths = [path for path in os.environ["PYTHONPATH"].split(":") if os.path.isdir(path)]
    return {
        **shared,
        "include": [os.path.join(root, source) for source in sources],
        "exclude": [],
        "extraPaths": paths,
    }


def main() -> None:
    """Writes the settings, runs the checker and shows paths as seen from the workspace."""
    root = os.path.join(os.environ["RUNFILES_DIR"], os.environ["TEST_WORKSPACE"])
    config = os.path.join(os.environ["TEST_TMPDIR"], "pyrightconfig.json")
    with open(config, "w", encoding="utf-8") as file:
        json.dump(settings(root, sys.argv[1:]), file, indent=1)
    command = [sys.executable, "-m", "basedpyright", "--project", config, "--pythonpath", sys.executable, "--warnings"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    print(result.stdout.replace(f"{root}/", ""), result.stderr)
    sys.exit(result.returncode)


if __name__ == "__main__":
    main()
