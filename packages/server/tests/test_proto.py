"""The proto: lint, and what counts as a break of the wire."""

import shutil
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
PROTO = "proto/subquad/genomics/v1/service.proto"


@pytest.fixture(scope="module")
def buf():
    """Runs buf from its wheel."""
    inside = next((file.locate() for file in files("buf-bin") or () if file.name == "buf"), None)
    places = (inside, Path(sys.executable).parent / "buf", shutil.which("buf"))
    program = next(str(place) for place in places if place and Path(place).exists())
    return lambda *words, cwd: subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, timeout=50)


def copy(folder, change=("", "")):
    """The proto folder with one text replaced."""
    (folder / PROTO).parent.mkdir(parents=True)
    text = (PACKAGE / PROTO).read_text()
    assert change[0] in text
    (folder / PROTO).write_text(text.replace(*change) if change[0] else text)
    (folder / "buf.yaml").write_text((PACKAGE / "buf.yaml").read_text())
    return folder


def test_the_proto_passes_the_standard_lint(buf, tmp_path):
    ran = buf("lint", cwd=copy(tmp_path / "ours"))
    assert (ran.returncode, ran.stdout) == (0, "")
    ran = buf("lint", cwd=copy(tmp_path / "bad", ("message Variant {", "message variant_x {")))
    assert ran.returncode == 100


@pytest.mark.parametrize(
    ("change", "breaks"),
    [
        (("uint32 max_new_tokens = 3;", "uint64 max_new_tokens = 3;"), True),
        (("bool return_timing = 10;", ""), True),
        (("uint32 num_samples = 13;", "uint32 num_samples = 13;\n  bool newer = 14;"), False),
    ],
)
def test_a_changed_or_lost_field_breaks_the_wire_and_a_new_one_does_not(buf, tmp_path, change, breaks):
    old, new = copy(tmp_path / "old"), copy(tmp_path / "new", change)
    ran = buf("breaking", "--against", str(old), cwd=new)
    assert ran.returncode == (100 if breaks else 0), ran.stdout + ran.stderr


def test_the_stubs_say_what_the_proto_says():
    from subquad.genomics.v1 import service_pb2

    described = service_pb2.DESCRIPTOR.services_by_name["GenomicsService"]
    listed = [line.split()[1].split("(")[0] for line in (PACKAGE / PROTO).read_text().splitlines() if "  rpc " in line]
    assert [method.name for method in described.methods] == listed
