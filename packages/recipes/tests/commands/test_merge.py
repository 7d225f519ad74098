"""`python -m subquad.recipes merge` from the outside."""

from pathlib import Path

import typer
from typer.testing import CliRunner

from subquad.inference import load_checkpoint
from subquad.recipes.commands import register

SIZES = ["model.pattern=S*", "model.hidden_size=8", "model.num_heads=2", "model.inner_size=8", "model.filter_groups=4"]
RUN = ["run.steps=1", "run.batch_size=2", "run.accelerator=cpu", "data.genomes=[phix174]", "data.window=32"]


def run(*arguments: object):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_a_network_is_trained_tuned_and_merged(tmp_path: Path):
    base, tuned, merged = tmp_path / "base", tmp_path / "tuned", tmp_path / "merged"
    result = run("train", "small", *SIZES, *RUN, "--output", base, "--no-progress")
    assert result.exit_code == 0, result.output
    start = ["--initial-checkpoint", base / "checkpoint", "lora.rank=2"]
    result = run("train", "small", *RUN, *start, "--output", tuned, "--no-progress")
    assert result.exit_code == 0, result.output
    assert "adapter.safetensors, metrics.jsonl and loss.png are in" in result.output
    result = run("merge", tuned / "adapter.safetensors", merged)
    assert result.exit_code == 0, result.output
    assert f"merged into {merged}" in result.output
    assert load_checkpoint(merged, device="cpu").metadata["recipe"]["lora"]["rank"] == 2
    again = run("merge", tuned / "adapter.safetensors", merged)
    assert again.exit_code == 2
    assert again.stderr.splitlines() == [
        f"error: {merged} exists already; choose another path or allow overwriting (--overwrite)"
    ]
    result = run("merge", tuned / "adapter.safetensors", merged, "--overwrite", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert load_checkpoint(merged, device="cpu").metadata["dtype"] == "bfloat16"


def test_bad_input_is_one_line_and_status_2(tmp_path: Path):
    result = run("merge", tmp_path / "nothing", tmp_path / "merged")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [f"error: {tmp_path / 'nothing'}: no such adapter"]
    assert run("merge", tmp_path / "nothing", tmp_path / "merged", "--traceback").exception is not None
