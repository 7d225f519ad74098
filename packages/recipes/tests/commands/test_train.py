"""`python -m subquad.recipes train` from the outside."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from subquad.modules.blocks.striped_hyena2 import HyenaBlock
from subquad.recipes.commands import register

CONFIG = """
from subquad.lazy_config import apply_overrides
from subquad.recipes.configs.small import config as small

def config():
    sizes = ["model.hidden_size=8", "model.num_heads=2", "model.inner_size=8", "model.filter_groups=4"]
    run = ["run.steps=2", "run.batch_size=2", "run.validate_every=2", "run.accelerator=cpu", "data.genomes=[phix174]"]
    return apply_overrides(small(), [*sizes, *run, "data.window=32", "model.pattern=S"])
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def run(*arguments: object):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_it_trains_and_reports_beside_the_baselines(config: Path, tmp_path: Path):
    result = run(config, "run.steps=3", "--output", tmp_path / "run", "--no-progress")
    assert result.exit_code == 0, result.output
    assert "after 3 steps" in result.output
    assert "order-0 entropy" in result.output
    assert "Markov order 6" in result.output
    assert (tmp_path / "run" / "checkpoint").is_dir()
    again = run(config, "run.steps=3", "--output", tmp_path / "run", "--resume", "--no-progress")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("flag", ["--use-subquadratic-ops", "--no-use-subquadratic-ops"])
def test_the_flag_of_the_fused_operators_reaches_the_network(flag: str, config: Path, tmp_path: Path, monkeypatch):
    seen = set()
    forward = HyenaBlock.mix

    def mix(self, *arguments):
        seen.add(self.use_subquadratic_ops)
        return forward(self, *arguments)

    monkeypatch.setattr(HyenaBlock, "mix", mix)
    result = run(config, "run.steps=1", "--output", tmp_path / "run", "--no-progress", flag)
    assert result.exit_code == 0, result.output
    assert seen == {flag == "--use-subquadratic-ops"}
    assert (
        f"use_subquadratic_ops: {str(flag == '--use-subquadratic-ops').lower()}"
        in (tmp_path / "run" / "config.yaml").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run.stepz=3"], "stepz"),
        (["run.steps=0"], "run.steps: got 0; accepted is a whole number of at least 1"),
        (["run.steps=many"], "steps"),
        (["data.genomes=[no.fa]"], "no.fa: no such FASTA file"),
        (["model.pattern=SX"], "pattern"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], message: str, config: Path, tmp_path: Path):
    result = run(config, *arguments, "--output", tmp_path / "run")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_a_missing_configuration_is_refused_by_name(tmp_path: Path):
    result = run(tmp_path / "absent.py", "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "absent.py: no such configuration file" in result.stderr


def test_a_folder_of_the_name_of_a_shipped_configuration_does_not_hide_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    result = run("small", "run.steps=0", "--output", tmp_path / "run")
    assert "run.steps: got 0" in result.stderr


def test_a_checkpoint_brings_its_network_and_takes_no_change_of_it(config: Path, tmp_path: Path):
    assert run(config, "run.steps=1", "--output", tmp_path / "first", "--no-progress").exit_code == 0
    start = ["--initial-checkpoint", tmp_path / "first" / "checkpoint", "--no-progress"]
    result = run(
        "small", "run.steps=1", "data.genomes=[phix174]", "data.window=32", "--output", tmp_path / "run", *start
    )
    assert result.exit_code == 0, result.output
    assert "hidden_size: 8" in (tmp_path / "run" / "config.yaml").read_text()
    result = run("small", "model.hidden_size=16", "--output", tmp_path / "other", *start)
    assert result.exit_code == 2
    assert "model: got 'model.hidden_size=16'; accepted is no change of the network" in result.stderr
    result = run("small", "--output", tmp_path / "other", "--initial-checkpoint", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "nothing" in result.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_by_its_status_with_a_resume_point(number: int, config: Path, tmp_path: Path):
    output = tmp_path / "run"
    command = [sys.executable, "-m", "subquad.recipes", "train", str(config), "run.steps=100000", "run.save_every=1"]
    with subprocess.Popen([*command, "--output", str(output)], stderr=subprocess.PIPE, text=True) as training:
        while training.poll() is None and not (output / "resume.ckpt").exists():
            time.sleep(0.05)
        training.send_signal(number)
        _, said = training.communicate(timeout=60)
    assert training.returncode == 128 + number, said
    assert "go on with --resume" in said.splitlines()[-1]


def test_a_traceback_is_shown_on_request(config: Path, tmp_path: Path):
    result = run(config, "run.steps=0", "--output", tmp_path / "run", "--traceback")
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)


def test_help_starts_without_torch():
    code = (
        "import sys; from subquad.recipes.commands import register; import typer; register(typer.Typer());"
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'matplotlib', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "subquad.recipes", "train", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--resume" in shown.stdout
