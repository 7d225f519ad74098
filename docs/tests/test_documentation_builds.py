"""Builds the documentation; a warning is an error. What it was built of is looked up in the result."""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

from tools.docs import docstring_coverage
from tools.release import public_api

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGES = ("lazy_config", "ops", "modules", "parallel", "inference", "recipes", "server", "subquad")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, pages = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "docs"
    shutil.copytree(DOCS, pages)  # not as links, which the parser follows out of the folder
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(pages), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-8000:]
    return folder


def documented(site: Path) -> dict[str, str]:
    """The page of every Python name that the site describes."""
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda _, page: page)
    kinds = [kind for kind in inventory if kind.startswith("py:")]
    return {name: item.uri.partition("#")[0] for kind in kinds for name, item in inventory[kind].items()}


def exported(package: str) -> list[str]:
    """The public names of a package, each under the module that exports it."""
    names, module = [], ""
    for line in public_api.render(ROOT / "packages" / package).splitlines():
        if line.startswith("subquad"):
            module = line
        elif match := re.match(r"  (?:class |async )?([A-Za-z_]\w*)", line):
            names.append(f"{module}.{match[1]}")
    return names


def test_sphinx_builds_every_page_without_a_warning(site: Path) -> None:
    assert "StripedHyena2" in (site / "reference" / "modules.html").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_the_page_of_its_package(package: str, site: Path) -> None:
    pages, names = documented(site), exported(package)
    assert names, "the listing is empty"
    page = f"reference/{package}.html"

    def is_there(name: str) -> bool:
        module, _, short = name.rpartition(".")
        return pages.get(name) == page or pages.get(f"{module.rpartition('.')[0]}.{short}") == page

    missing = [name for name in names if not is_there(name)]
    assert not missing, f"add these to docs/{page.replace('.html', '.md')}: {', '.join(missing)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_classes_and_functions_link_to_their_source(package: str, site: Path) -> None:
    text = (site / "reference" / f"{package}.html").read_text()
    entries = re.findall(r'<dt class="sig sig-object py" id="(subquad\.[^"]*)">(.*?)</dt>', text, re.DOTALL)
    own = [name for name, _ in entries if name in exported(package)]
    linked = {name for name, body in entries if "viewcode-link" in body}
    values = re.compile(r'class="py (data|type)">\s*<dt class="sig sig-object py" id="([^"]*)"')
    constants = {match[2] for match in values.finditer(text)}
    assert own
    assert set(own) <= linked | constants


def test_pages_show_shapes_errors_and_sources(site: Path) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "reference" / "modules.html").read_text()))
    entry = text[text.index("class subquad.modules.PatchMerging") :]
    entry = entry[: entry.index("class subquad.modules", 10)]
    for part in ("Float[Tensor, 'batch *space channel']", "Raises", "InputMismatch", "Source: Liu et al."):
        assert part in entry


def test_the_page_of_docstring_coverage_is_up_to_date() -> None:
    page = ROOT / docstring_coverage.PAGE
    assert page.read_text() == docstring_coverage.render(ROOT), f"run `{docstring_coverage.COMMAND}`"
