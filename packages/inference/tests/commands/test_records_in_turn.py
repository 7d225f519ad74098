"""Commands that read each record alone: a device has the next one before anybody waits for the one before."""

import pytest
import torch

from packages.inference.tests.commands.running import done, lines, run
from packages.inference.tests.watched import Watched
from subquad.inference import Engine
from subquad.inference.commands.batches import groups
from subquad.inference.commands.run_batches import EngineChoice
from subquad.inference.errors import NonFiniteActivations, NonFiniteLogits
from subquad.inference.sequence_files import Record

IN_TURN = "launch launch read launch read read"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The network that the commands load, whose launches and reads are noted."""
    found = Watched(monkeypatch)
    monkeypatch.setattr(EngineChoice, "load", lambda _: found.engine)
    return found


@pytest.mark.parametrize("command", [["score"], ["embed", "-l", "blocks.1", "--pooling", "none"]])
def test_records_read_alone_do_not_wait_for_each_other(checkpoint, tmp_path, watched, command):
    source = tmp_path / "in.fa"
    source.write_text(">a\nACGT\n>b\nTTAGG\n>c\nGA\n")
    found = done(command[0], checkpoint, source, *command[1:]).stdout
    assert watched.events == IN_TURN.split()
    assert [row["id"] for row in lines(found)] == ["a", "b", "c"]


def test_windows_of_variants_do_not_wait_for_each_other(checkpoint, tmp_path, watched):
    genome, table = tmp_path / "genome.fa", tmp_path / "in.csv"
    genome.write_text(">c\nACGTTGCAACGGTACCATTG\n")
    table.write_text("chrom,pos,ref,alt\nc,5,T,A\nc,5,T,C\n")
    found = lines(done("variants", checkpoint, table, "-r", genome, "--window", 10).stdout)
    assert watched.events == IN_TURN.split()  # three windows, since the two variants share their reference
    assert len({row["delta_log_likelihood"] for row in found}) == 2


@pytest.mark.parametrize("command", [["score"], ["embed", "-l", "blocks.1"]])
def test_rows_before_a_record_that_failed_are_kept(checkpoint, tmp_path, watched, command):
    source, out = tmp_path / "in.fa", tmp_path / "out.jsonl"
    source.write_text(">a\nACGT\n>b\nTTAGG\n>c\nNACG\n>d\nACGT\n")
    result = run(command[0], checkpoint, source, *command[1:], "-o", out)
    assert result.exit_code == 1
    assert "not finite" in result.stderr
    kept = (tmp_path / "out.jsonl.partial" / "rows.jsonl").read_text()
    assert [row["id"] for row in lines(kept)] == ["a", "b"]


def test_the_engine_gives_each_result_once_the_next_is_under_way(watched):
    texts = ["ACGT", "TTAGG", "NACG"]
    scores = watched.engine.score_each(texts)
    vectors = watched.engine.embed_each(texts, ["blocks.1"])
    assert watched.events == []
    expected = Engine(watched.network, watched.engine.tokenizer).score_details(texts[:2])
    watched.events.clear()
    assert [next(scores), next(scores)] == expected
    assert watched.events == ["launch", "launch", "read", "launch", "read"]
    with pytest.raises(NonFiniteLogits):
        next(scores)
    assert torch.isfinite(next(vectors)["blocks.1"]).all()
    next(vectors)
    with pytest.raises(NonFiniteActivations):
        next(vectors)


def test_a_group_ends_at_so_many_records_or_tokens():
    records = [Record(str(k), "A" * length, k) for k, length in enumerate([1, 2, 9, 1, 1, 1, 1])]
    assert [[r.id for r in group] for group in groups(records, 3, 10)] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [[r.id for r in group] for group in groups(records, 3, 3)] == [["0", "1"], ["2"], ["3", "4", "5"], ["6"]]
    assert [len(group) for group in groups(records, 5)] == [5, 2]


def test_the_records_before_one_that_cannot_be_read_come_first():
    def records():
        yield from (Record(str(k), "A", k) for k in range(3))
        raise ValueError("damaged")

    found = groups(records(), 2)
    assert [[record.id for record in next(found)] for _ in range(2)] == [["0", "1"], ["2"]]
    with pytest.raises(ValueError, match="damaged"):
        next(found)
