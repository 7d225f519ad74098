"""Builds the documentation; a warning is an error."""

import subprocess
import sys
from pathlib import Path

_DOCS = Path(__file__).resolve().parents[1]


def test_sphinx_builds_every_page_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(_DOCS), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-8000:]
    assert "StripedHyena2" in (tmp_path / "reference" / "modules.html").read_text()


def test_every_package_has_a_reference_page():
    pages = {page.stem for page in (_DOCS / "reference").glob("*.md")}
    assert {"lazy_config", "ops", "modules", "parallel", "inference", "recipes", "server"} <= pages
