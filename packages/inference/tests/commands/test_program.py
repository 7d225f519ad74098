"""What is wrong with the arguments of a command is one line on stderr, with the status 2."""

import re
import signal
import sys
from contextlib import nullcontext

import pytest
import typer

from subquad.inference import infer_evo2, predict_evo2
from subquad.inference.commands import register
from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.program import run_application

NOWHERE = ["nowhere", "nowhere.fa"]
NO_COMMAND = "No such command 'scor'. Did you mean 'score'?; see `subquad --help`"
WRONG = [
    (["scor"], NO_COMMAND),
    (["score"], "Missing argument 'checkpoint'; see `subquad score --help`"),
    (["score", *NOWHERE, "more"], "Got unexpected extra argument(s) (more); see `subquad score --help`"),
    (["score", *NOWHERE, "--strnd"], "No such option: --strnd (Possible options: --strand); see `"),
    (["score", *NOWHERE, "--strand"], "Option '--strand' requires an argument"),
    (
        ["score", *NOWHERE, "--strand", "up"],
        "--strand is 'up'; accepted: 'forward', 'both'; see `subquad score --help`",
    ),
    (["score", *NOWHERE, "--batch-size", "0"], "--batch-size is '0'; accepted: greater than or equal to 1; see `"),
    (["score", *NOWHERE, "--batch-size", "x.y"], "--batch-size is 'x.y'; accepted: a valid integer; see `"),
    (["variants", *NOWHERE], "Missing option '--reference' / '-r'; see `subquad variants --help`"),
    (
        ["convert", "a", "b", "--to", "native"],
        "Missing option '--from'. Choose from: native, vortex, savanna, mbridge; ",
    ),
]


def ended(capsys: pytest.CaptureFixture[str], program) -> tuple[int, str, str]:
    """Returns status, standard output and standard error of a program."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        program()
    signal.signal(signal.SIGINT, before)
    return end.value.code, *capsys.readouterr()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Runs the commands of this package as a program."""
    monkeypatch.setattr(sys, "argv", ["subquad", *arguments])
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    register(app)
    run_application(app, "subquad")


@pytest.mark.parametrize(("arguments", "problem"), WRONG)
def test_wrong_arguments_are_one_line(monkeypatch, capsys, arguments, problem):
    status, out, err = ended(capsys, lambda: run(monkeypatch, *arguments))
    assert (status, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", err)
    assert err.startswith(f"error: {problem}")


@pytest.mark.parametrize("alias", [infer_evo2, predict_evo2])
def test_wrong_arguments_of_the_aliases_are_one_line(monkeypatch, capsys, alias):
    name = alias.__name__.rpartition(".")[2]
    monkeypatch.setattr(sys, "argv", [name, "--device"])
    assert ended(capsys, alias.main) == (2, "", "error: Option '--device' requires an argument\n")
    monkeypatch.setattr(sys, "argv", [name, "--ckpt-dir", "x", "--tensor-parallel-size", "0"])
    problem = "--tensor-parallel-size is '0'; accepted: greater than or equal to 1"
    assert ended(capsys, alias.main) == (2, "", f"error: {problem}; see `{name} --help`\n")


def test_a_name_of_thousands_of_letters_is_a_short_line(monkeypatch, capsys):
    _, _, err = ended(capsys, lambda: run(monkeypatch, "score", *NOWHERE, "--dtype", "float32", "x" * 9000))
    assert len(err) < 2500


def test_help_and_the_status_of_a_command_come_through(monkeypatch, capsys):
    status, out, err = ended(capsys, lambda: run(monkeypatch, "score", "--help"))
    assert (status or 0, err) == (0, "")
    assert "--batch-size" in out
    status, out, err = ended(capsys, lambda: run(monkeypatch))
    assert (status, err) == (2, "")
    assert "generate" in out
    status, out, err = ended(capsys, lambda: run(monkeypatch, "info", "nowhere"))
    assert (status, out) == (2, "")
    assert err.startswith("error: nowhere")


def test_what_is_no_matter_of_arguments_is_not_hidden():
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    sys_argv, sys.argv = sys.argv, ["broken"]
    try:
        with pytest.raises(ZeroDivisionError, match="a bug"):
            run_application(app)
    finally:
        sys.argv = sys_argv


def import_cut_off() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RecursionError("numpy looks for itself") from None


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("work", [lambda: signal.raise_signal(signal.SIGINT), import_cut_off], ids=["plain", "import"])
def test_ctrl_c_is_one_line_whatever_becomes_of_it(monkeypatch, capsys, work, told):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def pressed() -> None:
        with one_line_errors(traceback=False) if told else nullcontext():
            work()

    monkeypatch.setattr(sys, "argv", ["pressed"])
    assert ended(capsys, lambda: run_application(app)) == (130, "", "interrupted\n")
