"""What a user sees who hands a command a bad file, a full disk or Ctrl-C: one line, before the network is loaded."""

import gzip
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from packages.inference.tests.commands.running import done, lines, run
from subquad.inference import Engine

LONG = "".join(f">r{i}\n{'ACGTTGCA' * 25}\n" for i in range(240))


@pytest.fixture
def no_network(monkeypatch):
    """Fails a test that loads the network."""

    def load(*_arguments, **_options):
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(Engine, "from_checkpoint", load)


BAD = [
    ("empty.fa", b"", "empty.fa: the file is empty; accepted: FASTA, which begins with '>'; JSON lines, which"),
    ("blank.fa", b"\r\n \r\n", "blank.fa: the file is empty"),
    ("reads.fastq", b"@r\nACGT\n+\nIIII\n", "reads.fastq, line 1: begins with '@r'; accepted: FASTA"),
    ("prompts", b"ACGT\nAC\n", "prompts, line 1: begins with 'ACGT'; accepted: FASTA"),
    ("a.zip", b"PK\x03\x04", r"a.zip, line 1: begins with 'PK\x03\x04'; accepted: FASTA"),
    ("a.bam", b"BAM\x01\xff", "a.bam, line 1: the byte 0xff at column 4 is no UTF-8 text, gzip or not"),
    ("twice.fa", b">a\nACGT\n>b\nAC\n>a\nGT\n", "twice.fa, line 5: record 'a' has the id of the one on line 1"),
    ("iupac.fa", b">a\nACGT\n>b\nACRT\n", "iupac.fa, line 3: record 'b' has the character 'R' at position 2"),
    ("none.fa", b">a\nACGT\n>b\n>c\nAC\n", "none.fa, line 3: record 'b' has no sequence"),
    ("short.fa", b">a\nACGT\n>b\nA\n", "record 'b' has 1 token, and the first one is not scored without prepend_eod"),
    ("long.fa", b">a\n" + b"A" * 257 + b"\n", "long.fa: record 'a' has 257 tokens; at most 256 are accepted"),
    ("cut.fa.gz", gzip.compress(LONG.encode())[:400], "the gzip data is truncated or damaged"),
    ("tail.fa.gz", gzip.compress(b">a\nACGT\n") + b"more", "the gzip data is truncated or damaged"),
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("name", "content", "text"), BAD)
def test_a_bad_file_is_one_line_before_any_work_and_leaves_nothing(checkpoint, tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    result = run("score", checkpoint, tmp_path / name, "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "command",
    [
        ["score", "nowhere.fa"],
        ["embed", "nowhere.fa", "-l", "blocks.0"],
        ["generate", "-i", "nowhere.fa"],
        ["plot", "nowhere.fa", "-o", "x.png"],
        ["variants", "nowhere.fa", "-r", "in.fa"],
        ["variants", "in.fa", "-r", "nowhere.fa"],
        ["score", "."],
        ["generate", "-p", ""],
    ],
)
def test_a_missing_input_is_found_before_any_work(checkpoint, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.fa").write_text(">a\nACGT\n")
    result = run(command[0], checkpoint, *command[1:])
    assert result.exit_code == 2
    assert "cannot be opened: " in result.stderr or "--prompt is ''; accepted: one or more" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("command", "source"),
    [
        (["score", "in.fa"], "in.fa"),
        (["embed", "in.fa", "-l", "blocks.0"], "in.fa"),
        (["generate", "-i", "in.fa"], "in.fa"),
        (["plot", "in.svg"], "in.svg"),
        (["variants", "v.csv", "-r", "in.fa", "--output-format", "jsonl"], "v.csv"),
        (["variants", "v.csv", "-r", "in.fa"], "in.fa"),
    ],
)
def test_results_never_replace_their_input(checkpoint, tmp_path, monkeypatch, command, source):
    monkeypatch.chdir(tmp_path)
    texts = {"in.fa": ">a\nACGT\n", "in.svg": ">a\nACGT\n", "v.csv": "chrom,pos,ref,alt\na,1,A,T\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    result = run(command[0], checkpoint, *command[1:], "-o", source, "--overwrite")
    assert result.exit_code == 2
    assert f"--output is '{source}'; accepted: another file than the input" in result.stderr
    assert (tmp_path / source).read_text() == texts[source]


@pytest.mark.usefixtures("no_network")
def test_a_base_without_complement_is_found_before_any_work(checkpoint, tmp_path):
    (tmp_path / "in.fa").write_text(">a\nACGT\n>b\nAC!T\n")
    result = run("score", checkpoint, tmp_path / "in.fa", "--non-dna", "keep", "--strand", "both")
    assert result.exit_code == 2
    assert "record 'b' has" in result.stderr


@pytest.mark.usefixtures("no_network")
def test_a_window_of_one_base_is_found_before_any_work(checkpoint, tmp_path):
    (tmp_path / "g.fa").write_text(">c\nAC\n")
    (tmp_path / "in.csv").write_text("chrom,pos,ref,alt\nc,1,AC,AA\nc,1,AC,A\n")
    result = run("variants", checkpoint, tmp_path / "in.csv", "-r", tmp_path / "g.fa")
    assert result.exit_code == 2
    assert "in.csv, line 3: the alternate window of c:1:AC:A has 1 token, and the first one is not" in result.stderr


def test_windows_line_ends_and_lower_case_are_no_errors(checkpoint, tmp_path):
    (tmp_path / "windows.fa").write_bytes(b"\xef\xbb\xbf>a b\r\nACGT\r\nACG\r\n\r\n")
    (tmp_path / "unix.fa").write_bytes(b">a\nACGTACG\n")
    (tmp_path / "lower.fa").write_bytes(b">a\nacgtacg\n")
    expected = done("score", checkpoint, tmp_path / "unix.fa").stdout
    assert done("score", checkpoint, tmp_path / "windows.fa").stdout == expected
    assert done("score", checkpoint, tmp_path / "lower.fa").stdout != expected
    assert done("score", checkpoint, tmp_path / "lower.fa", "--uppercase").stdout == expected


def test_an_id_that_comes_twice_on_the_standard_input_keeps_what_came_before(checkpoint, tmp_path):
    out = tmp_path / "out.jsonl"
    result = run("score", checkpoint, "-", "-o", out, stdin=">a\nACGT\n>b\nAC\n>a\nGT\n")
    assert result.exit_code == 2
    assert "2 results are kept in" in result.stderr
    assert "standard input, line 5: record 'a' has the id of the one on line 1" in result.stderr


def test_upper_case_leaves_tags_alone(checkpoint):
    flags = ["--uppercase", "--tag", "d__Bacteria", "--max-new-tokens", 1]
    (row,) = lines(done("generate", checkpoint, "-p", "|d__Archaea|acgt", *flags).stdout)
    assert row["prompt"].endswith(";s__None||d__Archaea|ACGT")
    assert row["prompt"].startswith("|d__Bacteria;")


def process(checkpoint, *arguments, limit=None, **options):
    """Starts a command of this source tree, with a limit on the size of the files that it writes."""

    def limited():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "subquad.inference", arguments[0], str(checkpoint), *map(str, arguments[1:])]
    return subprocess.Popen(command, preexec_fn=limited, stderr=subprocess.PIPE, text=True, **options)


def test_a_full_disk_is_named_and_what_was_written_before_is_kept(checkpoint, tmp_path):
    source, out, whole = tmp_path / "in.fa", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    source.write_text(LONG)
    command = ["score", source, "--batch-size", 4, "--device", "cpu"]
    done("score", checkpoint, *command[1:], "-o", whole)
    running = process(checkpoint, *command, "-o", out, limit=10_000)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "results are kept in" in errors.splitlines()[0]
    assert errors.splitlines()[1:] == [f"error: {out}.partial cannot be written: File too large"]
    refused = run("score", checkpoint, *command[1:], "-o", out)
    assert refused.exit_code == 2
    assert "--resume to go on from the results of an earlier run" in refused.stderr
    done("score", checkpoint, *command[1:], "-o", out, "--resume")
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_line(checkpoint, tmp_path, unbuffered):
    (tmp_path / "in.fa").write_text(">a\nACGT\n")
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        running = process(checkpoint, "score", tmp_path / "in.fa", stdout=full, env=environment)
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert errors == "error: the standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_told_nothing(checkpoint, tmp_path, unbuffered):
    (tmp_path / "in.fa").write_text(">a\nACGT\n")
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    running = process(checkpoint, "score", tmp_path / "in.fa", stdout=writing, env=environment)
    os.close(writing)
    _, errors = running.communicate(timeout=120)
    assert (running.returncode, errors) == (1, "")


def closed(number, *arguments, **options):
    """Runs a command without one of the standard streams."""
    code = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    command = [sys.executable, "-c", code, str(number), "-m", "subquad.inference", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_streams_that_the_caller_has_closed_are_no_place_for_anything_else(checkpoint, tmp_path):
    source, out = tmp_path / "in.fa", tmp_path / "out.jsonl"
    source.write_text(">a\nACGT\n")
    expected = done("score", checkpoint, source).stdout
    silent = closed(2, "score", checkpoint, source, "--progress", "--device", "cpu")
    assert (silent.returncode, silent.stdout) == (0, expected)
    silent = closed(2, "score", checkpoint, tmp_path / "nowhere.fa")
    assert (silent.returncode, silent.stdout) == (2, "")
    nothing = closed(0, "score", checkpoint, "-")
    assert (nothing.returncode, nothing.stderr) == (2, "error: standard input: cannot be read: Bad file descriptor\n")
    lost = closed(1, "score", checkpoint, source, "--device", "cpu")
    assert (lost.returncode, lost.stderr) == (1, "error: the standard output cannot be written: Bad file descriptor\n")
    assert closed(1, "score", checkpoint, source, "--device", "cpu", "-o", out).returncode == 0
    assert out.read_text() == expected


def test_a_locale_without_a_character_is_no_error(checkpoint, tmp_path):
    (tmp_path / "gène").symlink_to(checkpoint)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    for arguments in (
        ["info", tmp_path / "gène"],
        ["convert", tmp_path / "gène", tmp_path / "a.pt", "--from", "native", "--to", "vortex", "--table"],
        ["score", "--help"],
    ):
        command = [sys.executable, "-m", "subquad.inference", *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert found.returncode == 0, found.stderr
        assert "Error" not in found.stderr


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("command", [["score"], ["plot"]])
def test_an_output_whose_name_is_too_long_is_refused_before_any_work(checkpoint, tmp_path, command):
    (tmp_path / "in.fa").write_text(">a\nACGT\n")
    for letters in (234, 300):
        result = run(*command, checkpoint, tmp_path / "in.fa", "-o", tmp_path / ("n" * letters + ".svg"))
        assert result.exit_code == 2
        assert result.stderr.endswith(".svg'; accepted: a name of at most 237 bytes\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in.fa"]


@pytest.mark.usefixtures("no_network")
def test_an_error_about_a_very_long_name_is_a_short_line_with_the_problem_at_its_end(checkpoint, tmp_path):
    (tmp_path / "in.fa").write_text(f">{'x' * 100_000}\nACRT\n")
    result = run("score", checkpoint, tmp_path / "in.fa")
    assert result.exit_code == 2
    assert len(result.stderr) < 2100
    assert result.stderr.endswith(
        "at position 2; accepted: A C G T N of either case, or --non-dna mask, skip or keep\n"
    )


def test_a_report_in_the_place_of_the_target_is_refused(checkpoint, tmp_path):
    flags = ["--from", "native", "--to", "vortex", "--report", tmp_path / "a.pt"]
    result = run("convert", checkpoint, tmp_path / "a.pt", *flags)
    assert result.exit_code == 2
    assert "a.pt'; accepted: another file than the input" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_network")
def test_a_name_that_no_bedgraph_can_have_is_refused_before_any_work(checkpoint, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"id": "two words", "sequence": "ACGT"}\n')
    result = run("plot", checkpoint, tmp_path / "in.jsonl", "-o", tmp_path / "out.bedgraph")
    assert result.exit_code == 2
    assert "the name of a track is 'two words'; accepted: for a bedGraph one word" in result.stderr


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_named_and_leaves_nothing(checkpoint, tmp_path):
    running = process(checkpoint, "convert", tmp_path / "a.pt", "--from", "native", "--to", "vortex", limit=100_000)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert errors == f"error: {tmp_path / 'a.pt'} cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_after_ctrl_c_a_second_run_goes_on(checkpoint, tmp_path):
    source, out, whole = tmp_path / "in.fa", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    source.write_text(LONG)
    command = ["score", source, "--batch-size", 4, "--device", "cpu"]
    done("score", checkpoint, *command[1:], "-o", whole)
    running = process(checkpoint, *command, "-o", out)
    rows, end = out.with_name("out.jsonl.partial") / "rows.jsonl", time.monotonic() + 60
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert f"results are kept in {out}.partial; --resume goes on from there" in errors
    assert errors.endswith("interrupted\n")
    assert 0 < len(rows.read_text().splitlines()) < 240
    done("score", checkpoint, *command[1:], "-o", out, "--resume")
    assert out.read_bytes() == whole.read_bytes()


LATE = """
import atexit, os, signal, sys
from subquad.inference import __main__
def press(*_):
    os.kill(os.getpid(), signal.SIGINT)
def pressed_again():
    press()
    print("ended")
atexit.register(pressed_again)
import subquad.inference.checkpoint.summary as summary
summary.read_summary = {command}
sys.argv = ["x", "info", "nowhere"]
__main__.main()
"""


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("press", 130, "interrupted\n"),
        ('lambda *_: exec("press()")', 130, "interrupted\n"),  # as torch runs texts while it is imported
        ("summary.read_summary", 2, "error: nowhere does not exist; a checkpoint is a directory with metadata.json\n"),
    ],
    ids=["a command", "a text", "the end alone"],
)
def test_ctrl_c_is_one_line_and_a_status_while_the_program_ends_too(tmp_path, command, status, told):
    (tmp_path / "late.py").write_text(LATE.replace("{command}", command))
    program, places = [sys.executable, "-m", "late"], [str(tmp_path), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    ended = subprocess.run(program, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "ended\n", told)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("command", [["score"], ["embed", "-l", "blocks.0"], ["plot"]])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(checkpoint, tmp_path, monkeypatch, command):
    (tmp_path / "in.fa").write_text(">a\nACGT\n")
    suffix = ".bedgraph" if command[0] == "plot" else ".jsonl"
    (tmp_path / f"folder{suffix}").mkdir()
    arguments = [command[0], checkpoint, tmp_path / "in.fa", *command[1:], "-o"]
    for name, text in ((f"folder{suffix}", "a file; this is a folder"), (f"no/out{suffix}", "in a folder that exists")):
        result = run(*arguments, tmp_path / name, "--overwrite")
        assert result.exit_code == 2
        assert text in result.stderr
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK)
    result = run(*arguments, tmp_path / f"out{suffix}")
    assert result.exit_code == 2
    assert "accepted: a file in a folder that may be written" in result.stderr


@pytest.mark.usefixtures("no_network")
def test_more_panels_than_a_picture_has_are_refused_before_any_work(checkpoint, tmp_path):
    (tmp_path / "in.fa").write_text("".join(f">r{i}\nACGT\n" for i in range(33)))
    result = run("plot", checkpoint, tmp_path / "in.fa", "-o", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "tracks is 33; accepted: 1 to 32 tracks in one picture" in result.stderr
