"""`subquad client` against a fake engine."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from packages.server.tests.running_server import RunningServer
from subquad.server.commands import register
from subquad.server.security import Security, TokenTable

TLS = Path(__file__).parents[1] / "data" / "tls"


@pytest.fixture
def ask(server):
    """Runs `subquad client` with the running server as its target."""

    def run(*arguments, target=server.address, stdin=None):
        app = typer.Typer()
        register(app)
        words = ["client", arguments[0], "--target", target, *arguments[1:]]
        return CliRunner().invoke(app, words, input=stdin)

    return run


def test_info_shows_the_model_and_its_limits(ask):
    shown = ask("info").stdout
    assert "name: tiny" in shown
    assert "layers: blocks.0 … blocks.1 (2)" in shown
    assert "max_new_tokens: 4096" in shown
    assert json.loads(ask("info", "--json").stdout)["limits"]["max_queued_requests"] == 64


def test_generate_prints_the_text_or_one_object_a_sample(ask):
    assert ask("generate", "ACGT", "--max-new-tokens", "6").stdout == "TACGTA\n"
    many = ask("generate", "-", "--num-samples", "2", "--max-new-tokens", "4", stdin="ACGT\n").stdout
    assert len(many.splitlines()) == 2
    result = json.loads(ask("generate", "ACGT", "--max-new-tokens", "3", "--seed", "9", "--json").stdout)
    assert (result["seed"], len(result["logprobs"]), result["finish_reason"]) == (9, 3, "max_new_tokens")


def test_score_prints_one_line_a_sequence(ask):
    lines = ask("score", "ACGT", "AC").stdout.splitlines()
    assert lines == [f"{-float(sum(b'ACGT')):.6f}\t3", f"{-float(sum(b'AC')):.6f}\t1"]
    assert len(ask("score", "-", stdin="ACGT\nAC\nGG\n").stdout.splitlines()) == 3
    both = json.loads(ask("score", "ACGT", "--both-strands", "--json").stdout)
    assert both["scored_tokens"] == 3
    assert len(json.loads(ask("score", "ACGT", "--json", "--prepend-eod").stdout)["logprobs"]) == 4


def test_bad_input_is_one_error_line_and_exit_status_two(ask):
    failed = ask("generate", "ACGX")
    assert failed.exit_code == 2
    assert failed.stderr == "error: prompt: has 'X' at position 3; accepted: A C G T N\n"
    several = ask("generate", "", "--temperature=-1")
    assert several.stderr.splitlines()[1].startswith("  sampling.temperature: is -1")
    assert ask("generate", "ac|gt", "--ascii", "--max-new-tokens", "1").exit_code == 0


def test_nobody_at_the_target_is_exit_status_one(ask):
    failed = ask("info", target="127.0.0.1:1")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ")


def test_tls_and_token_come_from_files(ask, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    security = Security(certificate=TLS / "server.pem", private_key=TLS / "server.key", tokens=TokenTable.read(token))
    with RunningServer(security=security) as server:
        roots = ["--tls-roots", str(TLS / "ca.pem")]
        shown = ask("info", *roots, "--token-file", str(token), target=server.address)
        assert "name: tiny" in shown.stdout
        refused = ask("info", *roots, target=server.address)
        assert (refused.exit_code, refused.stderr) == (1, "error: a valid bearer token is needed\n")
    missing = ask("info", "--token-file", str(tmp_path / "none"))
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr
    assert ask("info", "--tls-key", str(token)).exit_code == 2
