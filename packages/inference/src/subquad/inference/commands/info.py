"""`subquad info`: what a checkpoint says of itself, without loading its weights."""

import json
from typing import Annotated, Any

import typer

from subquad.inference.commands.failures import one_line_errors
from subquad.inference.commands.settings import Checkpoint, Traceback


def info(
    checkpoint: Checkpoint,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also read every file and compare its SHA-256.")] = False,
    traceback: Traceback = False,
) -> None:
    """Describe a checkpoint: its network, its files and what its maker noted."""
    with one_line_errors(traceback=traceback):
        from subquad.inference.checkpoint.summary import read_summary

        summary = read_summary(checkpoint)
        if verify:
            summary.verify_hashes()
        description: dict[str, Any] = {**summary.metadata, "config": summary.config_text}
        if verify:
            description["verified"] = True
        if as_json:
            typer.echo(json.dumps(description, indent=2))
        else:
            _print_table(str(checkpoint), description)


def _print_table(title: str, description: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column("field", style="bold")
    table.add_column("value", overflow="fold")
    for field, value in description.items():
        table.add_row(field, _text(field, value))
    Console().print(table, markup=False)


def _text(field: str, value: Any) -> str:
    if field == "files":
        return "\n".join(f"{name}: {entry['bytes']:,} bytes" for name, entry in value.items())
    if isinstance(value, dict):
        return "\n".join(f"{key}: {item}" for key, item in value.items())
    return f"{value:,}" if field == "parameters" else str(value).rstrip()
