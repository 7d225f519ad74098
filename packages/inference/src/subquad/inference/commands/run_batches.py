"""What score, embed and generate share: survey the input, load the engine, run groups, write rows, resume."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subquad.inference.commands.batches import Reading, groups, remaining, survey
from subquad.inference.commands.option_groups import chosen_flags
from subquad.inference.commands.progress import shown_progress
from subquad.inference.commands.settings import EngineOptions, ResultOptions
from subquad.inference.memory import require_memory
from subquad.inference.result_files import opened_results
from subquad.inference.result_formats import Columns
from subquad.inference.sequence_files import Record

if TYPE_CHECKING:
    from subquad.inference.engine import Engine

GROUP_BATCHES = 16  # so many batches are sorted by length at a time
GROUP_TOKENS = 1 << 17  # of records that are read alone; a group of longer ones takes memory and saves no time


@dataclass(frozen=True)
class EngineChoice:
    """Which network is run, and how."""

    checkpoint: Path
    options: EngineOptions
    max_running: int = 1

    def token_limit(self) -> int:
        """Returns the tokens that the network takes, without loading its weights."""
        from subquad.inference.checkpoint.summary import read_summary
        from subquad.inference.engine import DEFAULT_MAX_SEQUENCE_TOKENS

        found = read_summary(self.checkpoint).metadata.get("max_sequence_tokens")
        return int(found or DEFAULT_MAX_SEQUENCE_TOKENS)

    def load(self) -> "Engine":
        """Loads it."""
        from subquad.inference.engine import Engine

        chosen: dict[str, Any] = {
            name: value.value if isinstance(value, StrEnum) else value for name, value in vars(self.options).items()
        }
        return Engine.from_checkpoint(self.checkpoint, max_running=self.max_running, **chosen)

    def settings(self) -> dict[str, Any]:
        """Returns what results depend on."""
        from subquad.inference.checkpoint.summary import CONFIG_FILE, read_summary

        metadata = read_summary(self.checkpoint).metadata
        config = metadata["files"][CONFIG_FILE]["sha256"]
        return {"weights": metadata["weights_sha256"], "config": config, **chosen_flags(self.options)}


@dataclass(frozen=True)
class Destination:
    """Where results go and how.

    Attributes:
      options: The file.
      columns: Kind of each field of a row.
      settings: What results depend on beside the network.
      inputs: Files that are read, and which the results must not replace.
    """

    options: ResultOptions
    columns: Columns
    settings: Mapping[str, Any]
    inputs: Sequence[Path] = ()


@dataclass(frozen=True)
class Load:
    """What the work on one input takes.

    Attributes:
      group: Records of a group.
      rows: Sequences at once, at most.
      all_rows: Whether memory is taken for so many even where there are fewer records.
      room: Tokens that come on top of each record.
      weight: Tokens that are counted for each token of a record, 2 where both strands are read.
      extra: Tokens that are counted for each record on top.
      multiple: A job that is resumed goes on at a multiple of so many rows; see `Journal`.
      tokens: A group ends at so many tokens; only where results do not depend on the group.
    """

    group: int
    rows: int
    all_rows: bool = False
    room: int = 0
    weight: int = 1
    extra: int = 0
    multiple: int = 1
    tokens: int | None = None

    @classmethod
    def of_batches(cls, batch_size: int, *, room: int, weight: int = 1) -> "Load":
        """Returns the load of records that are read side by side, sorted by length within a group.

        Where each is read alone, a group is what the engine is given at once, so that it launches a record before it
        reads the result of the one before.
        """
        if batch_size == 1:
            return cls(group=GROUP_BATCHES, rows=1, room=room, weight=weight, tokens=GROUP_TOKENS)
        group = GROUP_BATCHES * batch_size
        return cls(group=group, rows=batch_size, room=room, weight=weight, multiple=group)


def run_batches(
    title: str,
    records: Callable[[], Iterable[Record]] | Iterable[Record],
    reading: Reading,
    engine_choice: EngineChoice,
    destination: Destination,
    load: Load,
    work: "Callable[[Engine, list[Record]], Iterable[tuple[Mapping[str, Any], int]]]",
    *,
    check: Callable[[Record], None] | None = None,
    show: bool | None,
) -> None:
    """Runs ``work`` over groups of records and writes its rows, one a record and in order.

    Args:
      title: Name of the job.
      records: A function that opens the input, which is then read twice, the first time to find whatever is wrong
        with it and to know how much there is; or an input that can be read only once.
      reading: How records are read.
      engine_choice: How the engine is loaded.
      destination: Where results go.
      load: Sizes.
      work: Gives the row of each record, and how many tokens it took.
      check: Refuses a record that the work cannot do, before any work starts.
      show: See `shown_progress`.

    Raises:
      InferenceError: Of any kind; before any work starts, where the input can be read twice.
    """
    limit, found = engine_choice.token_limit(), None
    if callable(records):
        found = survey(records, reading, limit=limit, room=load.room, check=check)
        chosen = reading.chosen(records())
    else:
        chosen = reading.unrepeated(reading.chosen(records))
    total = None if found is None else load.weight * found.tokens + load.extra * found.records
    with (
        opened_results(
            destination.options.output,
            columns=destination.columns,
            settings={**engine_choice.settings(), **destination.settings},
            file_format=destination.options.output_format.value,
            overwrite=destination.options.overwrite,
            resume=destination.options.resume,
            multiple=load.multiple,
            inputs=destination.inputs,
        ) as results,
    ):
        engine = engine_choice.load()
        if found is not None and found.records:
            length = min(found.longest + load.room + load.extra, limit)
            rows = load.rows if load.all_rows else min(load.rows, found.records)
            require_memory(engine.network, engine.device, rows=rows, length=length, field=found.name)
        with shown_progress(title, show=show, total=total) as advance:

            def skipped(record: Record) -> None:
                tokens = load.weight * len(record.sequence) + load.extra
                advance(records=1, tokens=tokens, done_before=True)

            left = remaining(chosen, results.kept_rows(), reading.where, skipped)
            for group in groups(left, load.group, load.tokens):
                for record, (row, tokens) in zip(group, work(engine, group), strict=True):
                    results.write(row, read=record.sequence)
                    advance(records=1, tokens=tokens)


def opened_input(path: Path, file_format: str) -> Callable[[], Iterable[Record]] | Iterable[Record]:
    """Returns a function that opens a file, or the records of what can be read only once."""
    from subquad.inference.sequence_files import read_once_only, read_records

    if read_once_only(path):
        return read_records(path, file_format=file_format)  # type: ignore[arg-type]
    return lambda: read_records(path, file_format=file_format)  # type: ignore[arg-type]
