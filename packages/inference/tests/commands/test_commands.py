"""Tests of the command line."""

import json
import subprocess
import sys

import pytest

from packages.inference.tests.commands.running import lines, run


def test_info_describes_a_checkpoint_as_a_table_or_as_json(checkpoint):
    assert "StripedHyena2" in run("info", checkpoint).stdout
    described = json.loads(run("info", checkpoint, "--json", "--verify").stdout)
    assert (described["max_sequence_tokens"], described["verified"]) == (256, True)
    assert "pattern: SDH*SDH*" in described["config"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["score", "CKPT", "nowhere.fa"], "nowhere.fa: cannot be opened"),
        (["score", "nowhere", "-"], "nowhere does not exist"),
        (["score", "CKPT", "-", "--strand", "both", "--per-token"], "set prepend_eod"),
        (["score", "CKPT", "-", "--resume"], "only together with --output"),
        (["score", "CKPT", "-", "--device", "abacus"], "device is 'abacus'"),
        (["score", "CKPT", "-", "--dtype", "int3"], "dtype is 'int3'"),
        (["generate", "CKPT"], "exactly one of them"),
        (["generate", "CKPT", "-p", "A", "-i", "-"], "exactly one of them"),
        (["generate", "CKPT", "-p", "Aé"], "has the character 'é'"),
        (["generate", "CKPT", "-p", "A" * 300], "300 tokens; at most 255"),
        (["generate", "CKPT", "-p", "A", "--temperature", "-1"], "temperature is -1.0; accepted"),
        (["generate", "CKPT", "-p", "A", "--top-p", "0"], "top_p is 0.0; accepted"),
        (["generate", "CKPT", "-p", "A", "--max-new-tokens", "0"], "max_new_tokens is 0; accepted"),
        (["generate", "CKPT", "-p", "AXG"], "the character 'X' at position 1"),
        (["generate", "CKPT", "-p", "A", "--tag", "x__Bacteria"], "--tag is 'x__Bacteria'; accepted: ranks such as"),
        (["generate", "CKPT", "-p", "A", "--output-format", "parquet"], "accepted: jsonl without --output"),
        (["embed", "CKPT", "-", "--layer", "blocks.8"], "layer is 'blocks.8'; accepted: blocks.0 to blocks.7"),
        (
            ["embed", "CKPT", "-", "--layer", "blocks.0.filter"],
            "layer is 'blocks.0.filter'; accepted: a layer with one",
        ),
        (["embed", "CKPT", "-", "--layer", "blocks.0.other"], "or a module inside one"),
        (["plot", "CKPT", "-", "-o", "track.pdf"], "a name that ends in .png, .svg, .bedgraph"),
        (["plot", "CKPT", "-", "-o", "track.png", "--record", "z"], "--record is 'z'; accepted: the id of a record"),
        (["variants", "CKPT", "-", "-r", "nowhere.fa"], "nowhere.fa: cannot be opened"),
        (["info", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_status_2(checkpoint, arguments, text):
    result = run(*[str(checkpoint) if a == "CKPT" else a for a in arguments], stdin=">a\nACGT\n")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_traceback_is_shown_only_when_asked_for(checkpoint):
    result = run("info", "nowhere", "--traceback")
    assert type(result.exception).__name__ == "CheckpointNotFound"


def test_progress_goes_to_stderr(checkpoint):
    result = run("score", checkpoint, "-", "--progress", stdin=">a\nACGT\n")
    assert "1 records" in result.stderr
    assert len(lines(result.stdout)) == 1


def test_the_help_is_shown_without_loading_torch():
    code = "import sys, typer; from subquad.inference.commands import register; register(typer.Typer()); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_package_runs_as_a_module(checkpoint):
    command = [sys.executable, "-m", "subquad.inference", "info", str(checkpoint), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert json.loads(done.stdout)["format"] == "subquad-checkpoint"
