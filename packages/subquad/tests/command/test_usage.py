"""What is wrong with the arguments of ``subquad`` is one line on stderr."""

import re
import subprocess
import sys

import pytest

from subquad.command.application import main


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--nope"], "No such option: --nope; see `subquad --help`"),
        (["client", "generate"], "Missing argument 'prompt'; see `subquad client generate --help`"),
        (["train", "small"], "Missing option '--output'; see `subquad train --help`"),
        (
            ["plot", "a", "b", "-o", "c.svg", "--format", "gif"],
            "--format is 'gif'; accepted: 'auto', 'fasta', 'jsonl', 'plain'; see `subquad plot --help`",
        ),
    ],
)
def test_wrong_arguments_are_one_line(monkeypatch, capsys, arguments, problem):
    monkeypatch.setattr(sys, "argv", ["subquad", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, re.sub(r"python -m [\w.]*subquad", "subquad", err)) == ("", f"error: {problem}\n")


def test_wrong_arguments_of_the_quickstart_alone_are_one_line():
    command = [sys.executable, "-m", "subquad.quickstart", "--zzz"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    line = "error: No such option: --zzz; see `python -m subquad.quickstart --help`\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", line)
