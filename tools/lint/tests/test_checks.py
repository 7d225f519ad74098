"""Each check finds its fault and leaves sound text alone."""

import pytest

from tools.lint import checks


def test_a_file_above_the_budget_is_named_with_its_length() -> None:
    (message,) = checks.file_length("a/b.py", "x = 1\n" * 601)
    assert "601 lines" in message
    assert checks.file_length("a/b.py", "x = 1\n" * 600) == []
    assert checks.file_length("a/table.csv", "1,2\n" * 5000) == []


def test_a_function_is_measured_without_its_docstring() -> None:
    body = "".join(f"    x{i} = {i}\n" for i in range(60))
    docstring = '    """' + "Long.\n" * 30 + '    """\n'
    assert checks.function_length("a.py", "def f():\n" + docstring + body) == []
    (message,) = checks.function_length("a.py", "def f():\n" + body + "    y = 1\n")
    assert message.startswith("1: the body of f has 61 lines")


@pytest.mark.parametrize(
    "host", ["https://pypi" + ".org/simple", "files.python" + "hosted.org", "registry.npm" + "js.org"]
)
def test_a_registry_host_is_found_on_its_line(host: str) -> None:
    (message,) = checks.registry_hosts("README.md", f"first\nfetch {host}\n")
    assert message.startswith("2: ")


@pytest.mark.parametrize("path", ["/wo" + "rk/main", "/ro" + "ot/.cache", "open('/fa" + "rm/x')"])
def test_a_path_of_one_machine_is_found(path: str) -> None:
    assert checks.machine_paths("a.sh", path)


@pytest.mark.parametrize("path", ["docs/work/plan", "$HOME/work/x", "/usr/lib/python3", "{root}/work/x"])
def test_other_paths_are_left_alone(path: str) -> None:
    assert checks.machine_paths("a.sh", path) == []


def test_unfinished_marks_count_in_sources_only() -> None:
    text = "# TO" + "DO later\n"
    assert checks.unfinished("packages/ops/src/subquad/ops/a.py", text)
    assert checks.unfinished("docs/a.md", text) == []
