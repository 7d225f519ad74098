"""Every flag of every command that runs a network: what it does, or why it is refused. A flag without a row fails."""

import pytest
import typer

from packages.inference.tests.commands.running import lines, run
from subquad.inference.commands import register

CHANGES, SAME, PART = "another result", "the same result", "the same result of fewer records"
FASTA = ">a\nACGTTGCAACGTAGGCTTAC\n>b\ngattacaGATTACA\n"
ENGINE = {
    "--prefill-chunk": ("7", SAME),
    "--use-subquadratic-ops": (None, SAME),
    "--device": ("cpu", SAME),
    "--dtype": ("bfloat16", CHANGES),
    "--fp8-projections": (
        "exact",
        "fp8_projections is 'exact'; accepted: 'auto' or 'off', since this network has no FP8",
    ),
    "--weights": ("fp8", CHANGES),
    "--tensor-parallel": (
        "3",
        "8 filter groups cannot be dealt out to 3 ranks evenly; accepted is a number of ranks that",
    ),
}
READING = {
    "--format": ("jsonl", "not JSON"),
    "--non-dna": ("keep", SAME),
    "--uppercase": (None, CHANGES),
}
RESULTS = {
    "--output": (".", "--output is '.'; accepted: a file; this is a folder"),
    "--output-format": ("parquet", "--output-format is 'parquet'; accepted: jsonl without --output"),
    "--overwrite": (None, "--overwrite is True; accepted: only together with --output"),
    "--resume": (None, "--resume is True; accepted: only together with --output"),
}
SHOWN = {"--progress": (None, SAME), "--traceback": (None, SAME)}
SCORED = {"--strand": ("both", CHANGES), "--prepend-eod": (None, CHANGES), "--batch-size": ("2", SAME)}
SHARED = {**ENGINE, **RESULTS, **SHOWN}
FLAGS = {
    "score": {**SHARED, **READING, **SCORED, "--per-token": (None, CHANGES), "--tensor-parallel": ("2", SAME)},
    "embed": {
        **SHARED,
        **READING,
        "--layer": ("blocks.3", CHANGES),
        "--pooling": ("max", CHANGES),
        "--prepend-eod": (None, CHANGES),
        "--batch-size": ("2", SAME),
    },
    "generate": {
        **SHARED,
        **READING,
        "--dtype": ("int3", "dtype is 'int3'; accepted"),
        "--prompt": ("ACGT", "exactly one of them"),
        "--input": ("nowhere.fa", "nowhere.fa: cannot be opened"),
        "--tag": ("d__Bacteria", CHANGES),
        "--max-new-tokens": ("3", CHANGES),
        "--temperature": ("1.5", CHANGES),
        "--top-k": ("3", "--top-k is 3; accepted: 0 with greedy tokens; others need a --temperature above 0"),
        "--top-p": ("1.5", "top_p is 1.5; accepted"),
        "--seed": ("-1", "seed is -1; accepted"),
        "--stop": ("é", "stop[0] is 'é'; accepted"),
        "--ignore-eod": (None, SAME),
        "--logprobs": (None, CHANGES),
        "--max-running": ("3", SAME),
    },
    "variants": {
        **SHARED,
        **SCORED,
        "--reference": ("nowhere.fa", "nowhere.fa: cannot be opened"),
        "--window": ("12", CHANGES),
        "--anchor": ("start", CHANGES),
        "--format": ("vcf", "the header 'chrom,pos,ref,alt' names no column"),
        "--symbolic": ("skip", SAME),
        "--non-dna": ("skip", SAME),
        "--keep-case": (None, CHANGES),
    },
    "plot": {
        **ENGINE,
        **READING,
        **SHOWN,
        "--output": ("track.pdf", "a name that ends in .png, .svg, .bedgraph"),
        "--overwrite": (None, SAME),
        "--record": ("a", PART),
        "--window": ("9", "--window is 9; accepted: only together with a .png or .svg --output"),
        "--first-position": ("5", CHANGES),
        "--strand": ("both", CHANGES),
    },
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.fa").write_text(FASTA)
    (tmp_path / "genome.fa").write_text(f">c\n{'ACGTTGCAAC' * 4}{'acgttgcaac' * 4}\n")
    (tmp_path / "in.csv").write_text("chrom,pos,ref,alt\nc,9,A,T\nc,41,A,G\n")
    return tmp_path


BASE = {
    "score": ["in.fa"],
    "embed": ["in.fa", "--layer", "blocks.2"],
    "generate": ["--input", "in.fa", "--max-new-tokens", "4", "--seed", "1"],
    "variants": ["in.csv", "--reference", "genome.fa", "--window", "20"],
    "plot": ["in.fa", "--output", "track.bedgraph"],
}


def declared():
    app = typer.Typer()
    register(app)
    commands = typer.main.get_command(app).commands
    for name in FLAGS:
        for option in commands[name].params:
            flags = [text for text in option.opts if text.startswith("--")]
            if flags and flags[0] != "--help":
                yield name, flags[0]


def test_every_flag_has_a_row():
    assert sorted(declared()) == sorted((name, flag) for name, flags in FLAGS.items() for flag in flags)


def result_of(checkpoint, files, name, flags):
    """Runs a command and returns the rows of its result, or those of a track."""
    result = run(name, checkpoint, *BASE[name], *flags)
    if result.exit_code or name != "plot":
        return result, lines(result.stdout) if not result.exit_code else None
    rows = [line.split("\t") for line in (files / "track.bedgraph").read_text().splitlines()[1:]]
    return result, [{"id": row[0], "start": row[1], "stop": row[2], "likelihood": float(row[3])} for row in rows]


def close(found, expected):
    """Compares rows; numbers to rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[k], expected[k]) for k in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    return found == expected


@pytest.mark.parametrize(("name", "flag"), [(name, flag) for name, flags in FLAGS.items() for flag in flags])
def test_a_flag_works_or_is_refused_with_the_reason(checkpoint, files, name, flag):
    value, outcome = FLAGS[name][flag]
    base, expected = result_of(checkpoint, files, name, [])
    assert base.exit_code == 0, base.stderr
    (files / "track.bedgraph").unlink(missing_ok=True)
    result, found = result_of(checkpoint, files, name, [flag] if value is None else [flag, value])
    if outcome not in (CHANGES, SAME, PART):
        assert result.exit_code == 2, result.stderr
        assert outcome in result.stderr
        assert result.stderr.count("\n") == 1
        return
    assert result.exit_code == 0, result.stderr
    if outcome is PART:
        assert 0 < len(found) < len(expected)
        assert all(row in expected for row in found)
    else:
        assert close(found, expected) == (outcome is SAME)
