"""Tests of writing results."""

import json

import pytest

from subquad.inference.errors import InputFileError, InvalidOption
from subquad.inference.result_files import opened_results


def rows(path):
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def write_then_raise(path, ids, **options):
    with opened_results(path, **options) as results:
        for i in ids:
            results.write({"id": i})
        raise RuntimeError("power cut")


def write_and_fail(path, ids, **options):
    with pytest.raises(RuntimeError, match="power cut"):
        write_then_raise(path, ids, **options)


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out.jsonl"
    with opened_results(path) as results:
        results.write({"id": "a"})
        assert not path.exists()
    assert rows(path) == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_error_keeps_what_was_written_and_resume_goes_on(tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    write_and_fail(path, ["a", "b"])
    assert not path.exists()
    assert "2 results are kept in" in capsys.readouterr().err
    with (tmp_path / "out.jsonl.partial").open("a") as file:
        file.write('{"id": "torn')
    with opened_results(path, resume=True) as results:
        assert results.kept == ["a", "b"]
        results.write({"id": "c"})
    assert rows(path) == ["a", "b", "c"]


def test_an_error_before_the_first_result_leaves_nothing(tmp_path):
    write_and_fail(tmp_path / "out.jsonl", [])
    assert list(tmp_path.iterdir()) == []


def test_without_resume_an_earlier_partial_file_is_replaced(tmp_path):
    path = tmp_path / "out.jsonl"
    write_and_fail(path, ["a", "b"])
    with opened_results(path) as results:
        assert results.kept == []
        results.write({"id": "z"})
    assert rows(path) == ["z"]


def test_an_existing_file_is_replaced_only_when_allowed(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(InvalidOption, match="--overwrite"), opened_results(path):
        pass
    assert path.read_text() == "old"
    write_and_fail(path, ["a"], overwrite=True)
    assert path.read_text() == "old"
    with opened_results(path, overwrite=True) as results:
        results.write({"id": "a"})
    assert rows(path) == ["a"]


def test_a_damaged_partial_file_and_a_missing_folder_are_refused(tmp_path):
    (tmp_path / "out.jsonl.partial").write_text("what is this\n")
    with (
        pytest.raises(InputFileError, match="line 1: is no result"),
        opened_results(tmp_path / "out.jsonl", resume=True),
    ):
        pass
    with pytest.raises(InvalidOption, match="folder that exists"), opened_results(tmp_path / "no" / "out.jsonl"):
        pass
    with pytest.raises(InvalidOption, match="--resume"), opened_results(None, resume=True):
        pass


def test_without_a_path_results_go_to_the_standard_output(capsys):
    with opened_results(None) as results:
        results.write({"id": "a", "value": 1})
    assert json.loads(capsys.readouterr().out) == {"id": "a", "value": 1}
