"""Tests of writing results."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file

from subquad.inference.checkpoint.files import check_new_file
from subquad.inference.errors import CheckpointExists, InputFileError, InvalidOption
from subquad.inference.result_files import check_output, opened_results
from subquad.inference.result_formats import json_pieces, matrices

COLUMNS = {"id": "text"}
EVERYTHING = {
    "id": "text",
    "note": "text",
    "count": "integer",
    "score": "number",
    "ids": "integers",
    "logprobs": "numbers",
    "pooled": "vector",
    "positions": "matrix",
}


def rows(path):
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def write_then_raise(path, ids, **options):
    with opened_results(path, columns=COLUMNS, **options) as results:
        for i in ids:
            results.write({"id": i})
        raise RuntimeError("power cut")


def write_and_fail(path, ids, **options):
    with pytest.raises(RuntimeError, match="power cut"):
        write_then_raise(path, ids, **options)


def everything(count):
    """Rows of all kinds of fields, some of them empty."""
    for i in range(count):
        yield {
            "id": f"row {i}",
            "note": None if i % 2 else "é",
            "count": i,
            "score": i / 7,
            "ids": list(range(i % 3)),
            "logprobs": [-0.5] * (i % 4),
            "pooled": np.full(3, i, dtype=np.float32),
            "positions": np.full((1 + i % 2, 3), i, dtype=np.float32),
        }


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out.jsonl"
    with opened_results(path, columns=COLUMNS) as results:
        results.write({"id": "a"})
        assert not path.exists()
    assert rows(path) == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_error_keeps_what_was_written_and_resume_goes_on(tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    write_and_fail(path, ["a", "b"])
    assert not path.exists()
    assert "2 results are kept in" in capsys.readouterr().err
    with (tmp_path / "out.jsonl.partial" / "rows.jsonl").open("a") as file:
        file.write('{"id": "torn')
    with opened_results(path, columns=COLUMNS, resume=True) as results:
        assert results.kept == 2
        assert [record_id for record_id, _ in results.kept_rows()] == ["a", "b"]
        results.write({"id": "c"})
    assert rows(path) == ["a", "b", "c"]


def test_a_job_that_works_in_groups_goes_on_where_a_group_begins(tmp_path):
    path = tmp_path / "out.jsonl"
    write_and_fail(path, ["a", "b", "c", "d", "e"], multiple=2)
    with opened_results(path, columns=COLUMNS, resume=True, multiple=2) as results:
        assert [record_id for record_id, _ in results.kept_rows()] == ["a", "b", "c", "d"]
        results.write({"id": "e"})
    assert rows(path) == ["a", "b", "c", "d", "e"]


def test_an_error_before_the_first_result_leaves_nothing(tmp_path):
    write_and_fail(tmp_path / "out.jsonl", [])
    assert list(tmp_path.iterdir()) == []


def test_earlier_rows_are_dropped_only_when_that_is_said(tmp_path):
    path = tmp_path / "out.jsonl"
    write_and_fail(path, ["a", "b"])
    with pytest.raises(InvalidOption, match=r"--resume to go on from the results .*, or --overwrite to drop them"):
        open_and_close(path)
    with opened_results(path, columns=COLUMNS, overwrite=True) as results:
        assert results.kept == 0
        results.write({"id": "z"})
    assert rows(path) == ["z"]


def test_an_existing_file_is_replaced_only_when_allowed(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(InvalidOption, match="--overwrite"), opened_results(path, columns=COLUMNS):
        pass
    assert path.read_text() == "old"
    write_and_fail(path, ["a"], overwrite=True)
    assert path.read_text() == "old"
    with opened_results(path, columns=COLUMNS, overwrite=True) as results:
        results.write({"id": "a"})
    assert rows(path) == ["a"]


def open_and_close(path, **options):
    with opened_results(path, columns=COLUMNS, **options):
        pass


def test_damaged_rows_and_a_missing_folder_are_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    write_and_fail(path, ["a"])
    (tmp_path / "out.jsonl.partial" / "rows.jsonl").write_text("what is this\n")
    with pytest.raises(InputFileError, match="line 1: is no result"):
        open_and_close(path, resume=True)
    (tmp_path / "out.jsonl.partial" / "rows.jsonl").write_text('{"id": "a", "x": {"$array": [0, "<f4", [4]]}}\n')
    with pytest.raises(InputFileError, match="is shorter than its rows say"):
        open_and_close(path, resume=True)
    (tmp_path / "out.jsonl.partial" / "settings.json").write_text("?")
    with pytest.raises(InputFileError, match=r"settings.json: is damaged"):
        open_and_close(path, resume=True)
    with pytest.raises(InvalidOption, match="folder that exists"):
        open_and_close(tmp_path / "no" / "out.jsonl")
    with pytest.raises(InvalidOption, match="--resume"):
        open_and_close(None, resume=True)
    with pytest.raises(InvalidOption, match="--overwrite is True; accepted: only together with --output"):
        open_and_close(None, overwrite=True)
    with pytest.raises(InvalidOption, match=r"jsonl, parquet or safetensors"):
        open_and_close(path, file_format="csv")


def test_a_folder_or_file_that_is_no_journal_is_never_removed(tmp_path):
    path, folder = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputFileError, match=r"out\.jsonl\.partial: is in the way and holds no results"):
            open_and_close(path, **options)
    assert (folder / "thesis.txt").read_text() == "mine"
    (folder / "thesis.txt").rename(tmp_path / "thesis.txt")
    open_and_close(path)
    assert not folder.exists()
    folder.write_text("a file")
    with pytest.raises(InputFileError, match="is in the way"):
        open_and_close(path, overwrite=True)
    assert folder.read_text() == "a file"


def test_what_is_no_file_and_what_is_read_is_never_replaced(tmp_path):
    source, link = tmp_path / "in.fa", tmp_path / "link.fa"
    source.write_text(">a\nACGT\n")
    link.symlink_to(source)
    os.mkfifo(tmp_path / "pipe")
    for path, accepted in (
        (tmp_path / "pipe", "a file; this is a device or a pipe"),
        (Path("-"), "the name of a file, or no such flag for the standard output"),
        (source, "another file than the input"),
        (link, "another file than the input"),
    ):
        with pytest.raises(InvalidOption, match=f"--output is '.*'; accepted: {accepted}"):
            open_and_close(path, overwrite=True, inputs=[tmp_path / "other.fa", source])
    assert source.read_text() == ">a\nACGT\n"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/new"])
def test_a_name_of_an_open_file_is_never_replaced(name):
    with pytest.raises(InvalidOption, match="accepted: a file; this is a device or a pipe, which would be replaced"):
        check_output(Path(name), overwrite=True)
    with pytest.raises(CheckpointExists, match=r"is a device or a pipe, which would be replaced; choose a file"):
        check_new_file(Path(name), overwrite=True)


def test_a_file_that_is_not_there_yet_is_not_two_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOption, match="accepted: another file than the input"):
        check_output(Path("a.pt"), overwrite=True, inputs=[tmp_path / "x" / ".." / "a.pt"])


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl.gz"])
def test_a_name_that_promises_another_format_is_refused_unless_the_format_is_said(tmp_path, name):
    with pytest.raises(InvalidOption, match=rf"{name}'; accepted: .jsonl, .parquet or .safetensors at its end, or --"):
        open_and_close(tmp_path / name)
    open_and_close(tmp_path / name, file_format="jsonl")
    assert (tmp_path / name).exists()


def test_other_settings_than_those_of_the_job_to_resume_are_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    write_and_fail(path, ["a"], settings={"--strand": "both"})
    with pytest.raises(InvalidOption, match=r"--strand is 'forward'; accepted: 'both', as in the job to resume"):
        open_and_close(path, resume=True, settings={"--strand": "forward"})


def test_without_a_path_results_go_to_the_standard_output(capsys):
    with opened_results(None, columns=COLUMNS) as results:
        results.write({"id": "a", "value": 1, "array": np.ones(2, dtype=np.float32)})
    assert json.loads(capsys.readouterr().out) == {"id": "a", "value": 1, "array": [1.0, 1.0]}


@pytest.mark.parametrize("count", [0, 1, 2500])
def test_a_parquet_file_has_a_column_for_each_field(tmp_path, count):
    path = tmp_path / "out.parquet"
    with opened_results(path, columns=EVERYTHING) as results:
        for row in everything(count):
            results.write(row)
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == list(EVERYTHING)
    expected = [
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()} for row in everything(count)
    ]
    assert table.to_pylist() == expected


def test_a_matrix_may_have_more_values_than_32_bits_count(tmp_path):
    with (tmp_path / "zeros").open("wb") as file:  # takes no room on the disk, and is not read
        file.truncate(4 * (2**19 + 1) * 4096)
    matrix = np.memmap(tmp_path / "zeros", dtype=np.float32, mode="r", shape=(2**19 + 1, 4096))
    column = matrices([matrix])
    lines = column.flatten()
    assert (len(column), len(lines), len(lines.flatten())) == (1, 2**19 + 1, 2**31 + 4096)
    assert lines.offsets[-1].as_py() == 2**31 + 4096
    assert column.type == pyarrow.list_(pyarrow.large_list(pyarrow.float32()))


@pytest.mark.parametrize("count", [0, 1, 25])
def test_a_safetensors_file_has_a_tensor_for_each_field_and_offsets_of_ragged_ones(tmp_path, count):
    path = tmp_path / "out.safetensors"
    with opened_results(path, columns=EVERYTHING) as results:
        for row in everything(count):
            results.write(row)
    tensors = load_file(path)
    expected = list(everything(count))
    assert tensors["count"].tolist() == [row["count"] for row in expected]
    assert tensors["score"].tolist() == [row["score"] for row in expected]
    if count:
        assert np.array_equal(tensors["pooled"], np.stack([row["pooled"] for row in expected]))
    for name in ("ids", "logprobs", "positions"):
        ends = tensors[f"{name}.offsets"]
        assert ends.shape == (count + 1,)
        found = [tensors[name][ends[i] : ends[i + 1]].tolist() for i in range(count)]
        assert found == [np.asarray(row[name]).tolist() for row in expected]
    ends = tensors["note.offsets"]
    texts = [bytes(tensors["note"][ends[i] : ends[i + 1]]).decode() for i in range(count)]
    assert texts == [row["note"] or "" for row in expected]


def test_arrays_are_lists_in_json_lines(tmp_path):
    path = tmp_path / "out.jsonl"
    with opened_results(path, columns=EVERYTHING) as results:
        for row in everything(2):
            results.write(row)
    assert json.loads(path.read_text().splitlines()[1])["positions"] == [[1.0] * 3] * 2
    rows = [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()} for row in everything(2)]
    assert path.read_text() == "".join(json.dumps(row) + "\n" for row in rows)


def test_a_matrix_is_never_text_as_a_whole():
    row = {"id": "a", "positions": np.zeros((1000, 8), dtype=np.float32), "none": np.zeros((0, 8), dtype=np.float32)}
    pieces = list(json_pieces(row))
    assert max(map(len, pieces)) < 60
    assert json.loads("".join(pieces)) == {"id": "a", "positions": [[0.0] * 8] * 1000, "none": []}
