"""A fresh virtual environment that holds wheels of this tree and exactly what they declare to need.

The wheels are installed by pip with ``--no-index --no-deps``. What they need from elsewhere is already unpacked in the
locked hub; each such folder is put on the environment's path, one line each in a ``.pth`` file.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

from tools.release.requirement_closure import find_distributions, requirement_closure

PIP = Path(sys.prefix) / "pip" / "pip"  # the relocated interpreter brings it; see tools/python


class SmokeEnvironment:
    """The environment of one wheel.

    Attributes:
      root: the normalised name of the wheel's distribution.
      candidates: {name: (distribution, place)} of every wheel and hub folder within reach.
      closure: the names that were installed, `root` among them.
    """

    def __init__(self, folder: Path, wheel: Path, extras: list[str], siblings: list[Path], hub: list[Path]) -> None:
        """Creates the environment and installs `wheel` with `extras`.

        Raises:
          UnmetRequirement: Something it declares is neither among the siblings nor in the hub, or of another version.
        """
        self._folder = folder
        self.candidates = find_distributions([*hub, *siblings, wheel])
        (self.root,) = find_distributions([wheel])
        self.closure = set(requirement_closure(self.root, extras, self.candidates))
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self._python = folder / "venv" / "bin" / "python"
        places = [self.candidates[name][1] for name in sorted(self.closure)]
        self._install([place for place in places if place.suffix == ".whl"])
        site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
        folders = [str(place) for place in places if place.suffix != ".whl"]
        (site / "hub.pth").write_text("".join(f"{each}\n" for each in folders))

    def _install(self, wheels: list[Path]) -> None:
        options = ["--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
        result = self._run(str(PIP), "install", *options, *map(str, wheels))
        if result.returncode:
            raise RuntimeError(f"pip cannot install {[wheel.name for wheel in wheels]}:\n{result.stderr}")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the environment's interpreter, cut off from the caller's environment variables and folder."""
        return self._run(*arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        environment = {
            "HOME": str(home),
            "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{self._python.parent}:/usr/bin:/bin",
            "PIP_CONFIG_FILE": os.devnull,
            "TMPDIR": str(home),
        }
        return subprocess.run(
            [str(self._python), "-I", *arguments],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
