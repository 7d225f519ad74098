"""`subquad serve` with input that it refuses: one line, an exit status, and nothing served."""

import pytest
import typer
from typer.testing import CliRunner

from packages.server.tests.tiny_engine import tiny_checkpoint
from subquad.server.commands import register


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


def serve(*arguments):
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


def failure(*arguments):
    """The exit status and the error line of a server that does not start."""
    ran = serve(*arguments)
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    return ran.exit_code, ran.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-new-tokens", "0"], "max_new_tokens is 0; accepted: 1 to"),
        (["--name", "two words"], "name is 'two words'; accepted:"),
        (["--log-level", "loud"], "log_level is 'loud'; accepted: debug, info, warning, error"),
        (["--token-file", "missing"], "token file missing: "),
        (["--tls-key", "missing"], "tls-certificate and tls-key go together"),
        (["--device", "abacus"], "abacus"),
        (["--max-sequence-tokens", "9999999"], "max_sequence_tokens"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_status_two(checkpoint, arguments, said):
    status, line = failure(checkpoint, "--bind", "127.0.0.1:0", *arguments)
    assert status == 2, line
    assert said in line


def test_a_bad_checkpoint_is_one_line_that_names_it(checkpoint, tmp_path):
    status, line = failure(tmp_path / "missing", "--bind", "127.0.0.1:0")
    assert status == 2
    assert str(tmp_path / "missing") in line
    damaged = tiny_checkpoint(tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + bytes(8))
    status, line = failure(damaged, "--bind", "127.0.0.1:0")
    assert status == 2
    assert "model.safetensors" in line


def test_a_pickle_is_no_checkpoint(tmp_path):
    import torch

    folder = tmp_path / "pickled"
    folder.mkdir()
    torch.save({"weight": torch.zeros(2)}, folder / "model.pt")
    status, line = failure(folder, "--bind", "127.0.0.1:0")
    assert status == 2
    assert str(folder) in line


def test_the_traceback_is_shown_where_asked_for(tmp_path):
    ran = serve(tmp_path / "missing", "--bind", "127.0.0.1:0", "--traceback")
    assert type(ran.exception).__name__ == "CheckpointNotFound"
