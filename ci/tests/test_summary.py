"""The closing line counts test cases, and never calls a broken run good."""

import json
import pathlib
import subprocess
import sys

import pytest

from ci import summary

PASSED = "<testcase name='a'/>"
FAILED = "<testcase name='b'><failure/></testcase>"
ERROR = "<testcase name='c'><error/></testcase>"
SKIPPED = "<testcase name='d'><skipped/></testcase>"


def result(
    folder: pathlib.Path, label: str, cases: str, status: str = "PASSED", attempt: int = 1, shard: int = 1
) -> dict:
    """The event of one test attempt, with its JUnit file."""
    xml = folder / f"{label.replace('/', '_')} {attempt} {shard}.xml"
    xml.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    outputs = [{"name": "test.xml", "uri": xml.as_uri()}]
    identity = {"testResult": {"label": label, "attempt": attempt, "shard": shard, "run": 1}}
    return {"id": identity, "testResult": {"status": status, "testActionOutput": outputs}}


def built(label: str, success: bool) -> dict:
    """The event of one built target."""
    return {"id": {"targetCompleted": {"label": label}}, "completed": {"success": True} if success else {}}


def line(folder: pathlib.Path, events: list[dict], status: int) -> str:
    """What the program prints."""
    file = folder / "events.json"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    command = [sys.executable, summary.__file__, str(file), str(status)]
    return subprocess.check_output(command, text=True).strip()


def test_cases_of_all_targets_and_shards_are_summed(tmp_path: pathlib.Path) -> None:
    events = [
        result(tmp_path, "//a", PASSED + SKIPPED),
        result(tmp_path, "//b", PASSED * 2, shard=1),
        result(tmp_path, "//b", PASSED, shard=2),
        built("//a", True),
        built("//b", True),
    ]
    assert line(tmp_path, events, 0) == "4 passed, 0 failed, 1 skipped"


def test_failures_and_errors_are_failures(tmp_path: pathlib.Path) -> None:
    events = [result(tmp_path, "//a", PASSED + FAILED + ERROR, "FAILED")]
    assert line(tmp_path, events, 3) == "1 passed, 2 failed, 0 skipped"


def test_only_the_last_attempt_counts(tmp_path: pathlib.Path) -> None:
    events = [
        result(tmp_path, "//a", PASSED + FAILED, "FAILED", attempt=1),
        result(tmp_path, "//a", PASSED * 2, "FLAKY", attempt=2),
    ]
    assert line(tmp_path, events, 0) == "2 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize("status", ["TIMEOUT", "FAILED", "INCOMPLETE", "NO_STATUS"])
def test_a_target_that_dies_outside_any_test_is_one_failure(tmp_path: pathlib.Path, status: str) -> None:
    events = [result(tmp_path, "//a", PASSED, status), result(tmp_path, "//b", PASSED)]
    assert line(tmp_path, events, 3) == "1 passed, 1 failed, 0 skipped"


def test_a_target_that_does_not_build_is_one_failure(tmp_path: pathlib.Path) -> None:
    events = [result(tmp_path, "//a", PASSED), built("//a", True), built("//b", False)]
    assert line(tmp_path, events, 1) == "1 passed, 1 failed, 0 skipped"


def test_an_error_in_a_build_file_is_a_failure_though_nothing_ran(tmp_path: pathlib.Path) -> None:
    assert line(tmp_path, [], 1) == "0 passed, 1 failed, 0 skipped"


def test_a_run_that_selects_no_test_is_no_failure(tmp_path: pathlib.Path) -> None:
    assert line(tmp_path, [], 4) == "0 passed, 0 failed, 0 skipped"
