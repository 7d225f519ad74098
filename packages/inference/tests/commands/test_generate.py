"""Tests of `subquad generate`."""

import pytest

from packages.inference.tests.commands.running import done, lines, run
from subquad.inference import Engine, GenerationOptions

PRINTABLE = ["--temperature", 1, "--seed", 2, "--ignore-eod"]
SAMPLED = ["--max-new-tokens", 6, "--temperature", 0.8, "--seed", 3, "--device", "cpu"]


def test_one_row_for_each_prompt_in_order_with_log_probabilities(checkpoint, tmp_path):
    options = GenerationOptions(max_new_tokens=6, temperature=0.8, seed=3, return_logprobs=True)
    expected = Engine.from_checkpoint(checkpoint, device="cpu").generate(["ACGT", "|d__B|A"], options)
    rows = lines(done("generate", checkpoint, "-p", "ACGT", "-p", "|d__B|A", "--logprobs", *SAMPLED).stdout)
    assert [row["ids"] for row in rows] == [g.ids for g in expected]
    assert [row["logprobs"] for row in rows] == [g.logprobs for g in expected]
    assert [row["prompt"] for row in rows] == ["ACGT", "|d__B|A"]
    assert {row["seed"] for row in rows} == {3}
    source, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "x", "prompt": "ACGT"}\n{"id": "y", "prompt": "|d__B|A"}\n')
    done("generate", checkpoint, "-i", source, "-o", out, *SAMPLED)
    assert [(row["id"], row["ids"]) for row in lines(out.read_text())] == [
        ("x", expected[0].ids),
        ("y", expected[1].ids),
    ]


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--temperature", 1, "--top-k", 3], {"temperature": 1.0, "top_k": 3}),
        (["--temperature", 1, "--top-p", 0.3], {"temperature": 1.0, "top_p": 0.3}),
        (["--temperature", 2.5], {"temperature": 2.5}),
        ([], {}),
    ],
)
def test_every_sampling_flag_does_what_the_option_does(checkpoint, flags, options):
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    (expected,) = engine.generate(["ACGTAC"], GenerationOptions(max_new_tokens=12, seed=9, **options))
    (row,) = lines(done("generate", checkpoint, "-p", "ACGTAC", "--max-new-tokens", 12, "--seed", 9, *flags).stdout)
    assert row["ids"] == expected.ids


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top-p", 0.5], "--top-p is 0.5; accepted: 1.0 with greedy tokens; others need a --temperature above 0"),
        (["--temperature", 0, "--top-k", 4], "--top-k is 4; accepted: 0 with greedy tokens"),
        (["--temperature", 1, "--top-k", 513], "top_k is 513; accepted: an integer from 0 to 512, the size of the"),
    ],
)
def test_what_would_change_nothing_and_what_is_too_much_are_refused(checkpoint, flags, message):
    result = run("generate", checkpoint, "-p", "ACGT", *flags)
    assert result.exit_code == 2
    assert message in result.stderr


def test_each_prompt_has_a_reason_of_its_own(checkpoint):
    plain = lines(done("generate", checkpoint, "-p", "ACGT", "-p", "A" * 250, "--max-new-tokens", 10).stdout)
    assert [row["finish_reason"] for row in plain] == ["max_new_tokens", "context_length"]
    (free,) = lines(done("generate", checkpoint, "-p", "ACGT", *PRINTABLE, "--max-new-tokens", 60).stdout)
    place = next(i for i, token in enumerate(free["ids"]) if i > 1 and 32 < token < 127)
    stop = chr(free["ids"][place])
    at = free["ids"].index(ord(stop))
    two = ["-p", "ACGT", "-p", "A" * 250, "--stop", stop]
    stopped = lines(done("generate", checkpoint, *two, *PRINTABLE, "--max-new-tokens", 60).stdout)
    assert (stopped[0]["finish_reason"], stopped[0]["stop_sequence"]) == ("stop_sequence", stop)
    assert stopped[0]["ids"] == free["ids"][:at]
    assert (stopped[1]["finish_reason"], stopped[1]["stop_sequence"]) != ("max_new_tokens", stop)


def test_a_tag_goes_in_front_of_every_prompt_and_unknown_ranks_read_none(checkpoint):
    flags = ["--tag", "d__Bacteria;g__Escherichia", "--max-new-tokens", 1]
    (row,) = lines(done("generate", checkpoint, "-p", "ACGT", *flags).stdout)
    assert row["prompt"] == "|d__Bacteria;p__None;c__None;o__None;f__None;g__Escherichia;s__None|ACGT"


def test_a_policy_on_characters_leaves_tags_alone(checkpoint):
    flags = ["--max-new-tokens", 1]
    result = run("generate", checkpoint, "-p", "|d__Bacteria|AXGT", *flags)
    assert result.exit_code == 2
    assert "the character 'X' at position 14" in result.stderr
    (row,) = lines(done("generate", checkpoint, "-p", "|d__Bacteria|AXGT", "--non-dna", "mask", *flags).stdout)
    assert row["prompt"] == "|d__Bacteria|ANGT"
    (row,) = lines(done("generate", checkpoint, "-p", "AXGT", "-p", "AC", "--non-dna", "skip", *flags).stdout)
    assert row["prompt"] == "AC"
    (row,) = lines(done("generate", checkpoint, "-p", "AC@GT", "--non-dna", "keep", *flags).stdout)
    assert row["prompt"] == "AC@GT"


@pytest.mark.parametrize(
    ("name", "flags"), [("x.st", ["--output-format", "safetensors"]), ("x.parquet", []), ("x.safetensors", [])]
)
def test_a_seed_that_a_table_cannot_hold_is_refused(checkpoint, tmp_path, name, flags):
    result = run("generate", checkpoint, "-p", "A", "--seed", 2**63, "-o", tmp_path / name, *flags)
    assert result.exit_code == 2
    assert "--seed is 9223372036854775808; accepted: 0 to 9223372036854775807" in result.stderr


def test_results_do_not_depend_on_the_number_of_rows(checkpoint):
    prompts = [argument for i in range(5) for argument in ("-p", "ACGT" * (i + 1))]
    found = [lines(done("generate", checkpoint, *prompts, *SAMPLED, "--max-running", n).stdout) for n in (2, 5)]
    assert [row["completion"] for row in found[0]] == [row["completion"] for row in found[1]]
