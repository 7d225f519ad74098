"""The API listing of a small package."""

from pathlib import Path

import pytest

from tools.release import public_api

INIT = """from typing import TYPE_CHECKING

from subquad.sample import axes as axes
from subquad.sample.axes import Layout as Layout
from subquad.sample.things import Thing as Thing
from subquad.sample.things import LIMIT as LIMIT
from subquad.other import elsewhere as elsewhere
from subquad.sample.things import private_here

if TYPE_CHECKING:
    from subquad.sample.inner import late as late
"""
THINGS = '''from dataclasses import dataclass

LIMIT: int = 3


@dataclass(frozen=True)
class Thing(Base):
    """A thing."""

    size: int = 4
    _hidden: str = ""

    def __init__(self, size: int, *, name: str = "x") -> None:
        pass

    @property
    def area(self) -> int:
        return self.size

    def _private(self) -> None:
        pass


def private_here() -> None:
    pass
'''
LISTING = """
subquad.sample
  LIMIT: int = 3
  @dataclass(frozen=True)
  class Thing(Base)
    size: int = 4
    __init__(self, size: int, *, name: str='x') -> None
    @property
    area(self) -> int
  async late(x: 'Layout', /, *rest: int) -> bool
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    texts = {
        "sample/__init__.py": INIT,
        "sample/axes.py": "Layout = str\n",
        "sample/things.py": THINGS,
        "sample/inner/__init__.py": "from subquad.sample.inner._deep import late as late\n",
        "sample/inner/_deep.py": "async def late(x: 'Layout', /, *rest: int) -> bool:\n    return True\n",
        "sample/_private/__init__.py": "def unseen() -> None: ...\n",
    }
    for name, text in texts.items():
        path = tmp_path / "src/subquad" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def section(text: str, module: str) -> list[str]:
    (found,) = [part for part in text.split("\n\n") if part.startswith(module + "\n")]
    return found.rstrip("\n").split("\n")


def test_functions_classes_and_constants_are_listed_with_their_signatures(package: Path) -> None:
    lines = section(public_api.render(package), "subquad.sample")
    for line in LISTING.strip().split("\n"):
        assert line in lines


def test_aliases_modules_and_names_of_other_packages_are_listed(package: Path) -> None:
    lines = section(public_api.render(package), "subquad.sample")
    assert "  Layout = str" in lines
    assert "  module axes" in lines
    assert "  elsewhere = subquad.other.elsewhere" in lines


def test_what_is_not_re_exported_is_not_listed(package: Path) -> None:
    text = public_api.render(package)
    assert not [word for word in ("private_here", "_hidden", "_private", "unseen") if word in text]


def test_a_re_export_of_nothing_is_refused(package: Path) -> None:
    path = package / "src/subquad/sample/inner/__init__.py"
    path.write_text(path.read_text() + "from subquad.sample.things import absent as absent\n")
    with pytest.raises(public_api.UnresolvedExport, match=r"subquad\.sample\.things defines no absent"):
        public_api.render(package)


def test_writing_brings_the_listing_up_to_date(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert public_api.main([str(package)]) == 1
    assert "+subquad.sample" in capsys.readouterr().out
    assert public_api.main(["--write", str(package)]) == 0
    assert public_api.main([str(package)]) == 0
    things = package / "src/subquad/sample/things.py"
    things.write_text(THINGS.replace("size: int, *", "size: float, *"))
    assert public_api.main([str(package)]) == 1
    assert "+    __init__(self, size: float, *, name: str='x') -> None" in capsys.readouterr().out
