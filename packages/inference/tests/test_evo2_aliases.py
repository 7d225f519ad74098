"""Tests of the commands with the reference's flags."""

import json
import os
import subprocess
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import Engine, GenerationOptions, save_checkpoint
from subquad.inference.infer_evo2 import DEFAULT_PROMPT, infer_evo2
from subquad.inference.predict_evo2 import predict_evo2
from subquad.inference.unfinished import held
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2
from tools.testing.oracle import assert_close

TEXTS = {"a": "ACGTTGCA" * 2, "b": "GATTACA", "c": "ACG" * 9}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(path, tiny_network(), LazyConfig(StripedHyena2)(**TINY), metadata={"max_sequence_tokens": 256})
    return path


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text("".join(f">{name}\n{text.lower()}\n" for name, text in TEXTS.items()))
    return path


def run(command, *arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def infer(checkpoint, *arguments):
    result = run(infer_evo2, "--ckpt-dir", checkpoint, "--device", "cpu", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def predict(checkpoint, fasta, folder, *arguments):
    flags = ["--ckpt-dir", checkpoint, "--fasta", fasta, "--output-dir", folder, "--device", "cpu"]
    result = run(predict_evo2, *flags, *arguments)
    assert result.exit_code == 0, result.output
    assert json.loads((folder / "seq_idx_map.json").read_text()) == {"a": 0, "b": 1, "c": 2}
    files = sorted(folder.rglob("*.pt"))
    return [torch.load(file, weights_only=True) for file in files], [str(f.relative_to(folder)) for f in files]


def by_name(batches, field):
    """Rows of a field by name, padding cut off."""
    found = {}
    for batch in batches:
        for row, index in enumerate(batch["seq_idx"].tolist()):
            value = batch[field][row]
            found["abc"[index]] = value[batch["pad_mask"][row]] if "pad_mask" in batch else value
    return found


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {"temperature": 1.0, "seed": 1234}),
        (["--temperature", 0.5, "--top-k", 3, "--seed", 7], {"temperature": 0.5, "top_k": 3, "seed": 7}),
        (["--top-p", 0.4], {"temperature": 1.0, "top_p": 0.4, "seed": 1234}),
        (["--top-k", 1], {}),
    ],
)
def test_infer_samples_as_its_flags_say(checkpoint, flags, options):
    (row,) = infer(checkpoint, "--prompt", "ACGTAC", "--max-new-tokens", 9, "--return-log-probs", *flags)
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    wanted = GenerationOptions(max_new_tokens=9, return_logprobs=True, **options)
    (expected,) = engine.generate_each(["ACGTAC"], wanted, ignore_end_of_document=True)
    assert row["completion"] == expected.text
    assert row["finish_reason"] == "length"
    assert row["usage"] == {"prompt_tokens": 6, "completion_tokens": 9, "total_tokens": 15}
    assert row["logprobs"]["completion_logprobs"] == pytest.approx(expected.logprobs, abs=1e-4)  # float32, other batch


@pytest.mark.parametrize(
    "flags",
    [
        ["--prompt-segmentation-threshold", 5],
        ["--enable-chunked-prefill", "--inference-dynamic-batching-max-tokens", 3],
        ["--max-batch-size", 4],
        ["--max-seq-length", 60],
        ["--use-subquadratic-ops"],
        ["--no-use-subquadratic-ops"],
        ["--tensor-parallel-size", 1, "--pipeline-model-parallel-size", 1, "--context-parallel-size", 1],
        ["--tensor-parallel-size", 2],
        ["--cuda-graph-impl", "none", "--inference-dynamic-batching-block-size", 256],
    ],
)
def test_infer_gives_the_same_however_a_prompt_is_read(checkpoint, tmp_path, flags):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"id": "x", "prompt": "ACGTTGCAACGTT"}\n{"id": "y", "prompt": "GA"}\n')
    common = ["--prompt-file", prompts, "--max-new-tokens", 8, "--top-k", 1]
    plain = infer(checkpoint, *common)
    assert infer(checkpoint, *common, *flags, "--output-file", out) == []
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["completion"]) for row in rows] == [(row["id"], row["completion"]) for row in plain]


def test_infer_starts_from_a_tag_by_default(checkpoint):
    (row,) = infer(checkpoint, "--max-new-tokens", 1)
    assert row["prompt"] == DEFAULT_PROMPT
    assert DEFAULT_PROMPT.startswith("|d__Bacteria;p__Pseudomonadota;")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--pipeline-model-parallel-size", 2],
            "1; several devices share every layer; see --tensor-parallel",
        ),
        (["--context-parallel-size", 2], "--context-parallel-size is 2"),
        (["--mixed-precision-recipe", "bf16_with_fp8_delayed_scaling_mixed"], "accepted: 'bf16_mixed'"),
        (["--vortex-style-fp8"], "this checkpoint has no FP8 projections"),
        (["--cuda-graph-impl", "local"], "--cuda-graph-impl is 'local'; accepted: 'none'"),
        (["--inference-dynamic-batching-block-size", 64], "accepted: 256"),
        (["--max-seq-length-num-prompts", 3], "every prompt is looked at"),
        (["--top-k", 3, "--top-p", 0.4], "--top-k and --top-p is (3, 0.4); accepted: one of them"),
        (["--max-seq-length", 20], "prompt '0' has 30 tokens; at most 10 are accepted"),
        (["--max-seq-length", 1000], "--max-seq-length is 1000; accepted: 2 to 256"),
        (["--prompt-segmentation-threshold", 4, "--inference-dynamic-batching-max-tokens", 5], "one of them"),
        (["--prompt-file", "nowhere"], "accepted: one of them"),
    ],
)
def test_infer_refuses_what_it_cannot_do_with_a_reason(checkpoint, flags, text):
    common = ["--ckpt-dir", checkpoint, "--prompt", "ACGTTGCAACGTT" * 2 + "ACGT", "--max-new-tokens", 10]
    result = run(infer_evo2, *common, *flags)
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_prompt_larger_than_the_memory_is_refused_with_both_numbers(checkpoint, monkeypatch):
    monkeypatch.setattr("subquad.inference.memory.free_bytes", lambda device: 1 << 16)
    result = run(infer_evo2, "--ckpt-dir", checkpoint, "--prompt", "A" * 30, "--max-new-tokens", 20)
    assert result.exit_code == 2
    assert "prompt '0': 50 tokens need 0.13 MiB for their state, 0.06 MiB are free on cpu" in result.stderr


def test_a_missing_file_of_prompts_is_named(checkpoint):
    result = run(infer_evo2, "--ckpt-dir", checkpoint, "--prompt-file", "nowhere")
    assert (result.exit_code, result.stderr) == (2, "error: nowhere: cannot be opened: No such file or directory\n")


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ([("x", "ACGT"), ("y", "A" * 300)], "prompt 'y' has 300 tokens; at most 156 are accepted"),
        ([("x", "ACGT"), ("y", "ACé")], "prompt 'y' has the character 'é' (U+00E9) at position 2"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_told_before_the_network_is_loaded(
    checkpoint, tmp_path, monkeypatch, prompts, text
):
    monkeypatch.setattr(Engine, "from_checkpoint", None)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "prompt": p}) + "\n" for i, p in prompts))
    result = run(infer_evo2, "--ckpt-dir", checkpoint, "--prompt-file", tmp_path / "in.jsonl")
    assert result.exit_code == 2
    assert text in result.stderr


def test_prompts_with_one_id_are_refused_with_both_lines(checkpoint, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "a", "prompt": "ACGT"}\n{"id": "b", "prompt": "AC"}\n{"id": "a", "prompt": "GT"}\n')
    result = run(infer_evo2, "--ckpt-dir", checkpoint, "--prompt-file", source, "--output-file", out)
    assert result.exit_code == 2
    assert f"{source}, line 3: record 'a' has the id of the one on line 1; give each its own" in result.stderr
    assert not out.exists()


def test_the_results_of_infer_never_replace_their_prompts(checkpoint, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "ACGT"}\n')
    flags = ["--prompt-file", tmp_path / "in.jsonl", "--output-file", tmp_path / "in.jsonl"]
    result = run(infer_evo2, "--ckpt-dir", checkpoint, *flags)
    assert "in.jsonl'; accepted: another file than the input" in result.stderr
    assert (tmp_path / "in.jsonl").read_text() == '{"prompt": "ACGT"}\n'


def test_the_length_can_come_from_the_environment(checkpoint, monkeypatch):
    monkeypatch.setenv("EVO2_MAX_SEQ_LEN", "20")
    result = run(infer_evo2, "--ckpt-dir", checkpoint, "--prompt", "A" * 30, "--max-new-tokens", 10)
    assert "prompt '0' has 30 tokens; at most 10 are accepted" in result.stderr


@pytest.mark.parametrize("micro_batch_size", [1, 2])
@pytest.mark.parametrize("prepend", [False, True])
def test_predict_writes_logits_of_every_sequence(checkpoint, fasta, tmp_path, micro_batch_size, prepend):
    flags = ["--micro-batch-size", micro_batch_size, *(["--prepend-bos"] if prepend else [])]
    batches, names = predict(checkpoint, fasta, tmp_path / "out", *flags)
    assert names == ["predictions__rank_0__dp_rank_0.pt"]
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    tokens, logits = by_name(batches, "tokens"), by_name(batches, "token_logits")
    for name, text in TEXTS.items():
        ids = [0] * prepend + list(text.encode())
        assert tokens[name].tolist() == ids
        assert_close(logits[name], engine.forward(torch.tensor([ids]))[0], relative=5e-6)


@pytest.mark.parametrize("collapse", ["sum", "mean", "per_token"])
def test_predict_collapses_log_probabilities(checkpoint, fasta, tmp_path, collapse):
    flags = ["--output-log-prob-seqs", "--log-prob-collapse-option", collapse, "--micro-batch-size", 3]
    batches, _ = predict(checkpoint, fasta, tmp_path / "out", *flags)
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    expected = engine.score(list(TEXTS.values()), reduce="none" if collapse == "per_token" else collapse)
    found = by_name(batches, "log_probs_seqs")
    for name, value in zip(TEXTS, expected, strict=True):
        assert found[name].tolist() == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_predict_writes_hidden_states_by_batch_in_folders(checkpoint, fasta, tmp_path):
    flags = ["--embedding-layer", -2, "--write-interval", "batch", "--files-per-subdir", 2, "--min-length", 30]
    batches, names = predict(checkpoint, fasta, tmp_path / "out", *flags, "--no-sequence-parallel")
    file = "predictions__rank_0__dp_rank_0__batch"
    assert names == [f"subdir_0/{file}_0.pt", f"subdir_0/{file}_1.pt", f"subdir_1/{file}_2.pt"]
    assert {tuple(batch["hidden_embeddings"].shape) for batch in batches} == {(1, 30, 64)}
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    found = by_name(batches, "hidden_embeddings")
    for name, text in TEXTS.items():
        (expected,) = engine.embed([text], ["blocks.6"], pooling="none")
        assert_close(found[name], expected["blocks.6"], relative=5e-6)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--devices", 2], "--devices is 2; accepted: 1; this command runs on one machine"),
        (["--num-nodes", 2], "--num-nodes is 2"),
        (
            ["--pipeline-model-parallel-size", 2],
            "1; several devices share every layer; see --tensor-parallel",
        ),
        (["--hybrid-override-pattern", "SDH*"], "the checkpoint says it"),
        (["--num-layers", 4], "the checkpoint says it"),
        (["--seq-len-interpolation-factor", 4], "the checkpoint says it"),
        (["--eden-tokenizer"], "the checkpoint says it"),
        (["--mask-phylogenetic-tags"], "there are no tags"),
        (["--files-per-subdir", 2], "--write-interval epoch writes one file"),
        (["--output-log-prob-seqs", "--embedding-layer", 1], "one of them"),
        (["--embedding-layer", 8], "layer is 'blocks.8'"),
        (["--min-length", 300], "--min-length is 300; accepted: 1 to 256"),
        (["--vortex-style-fp8"], "this checkpoint has no FP8 projections"),
        (["--log-prob-collapse-option", "sum"], "without --output-log-prob-seqs there is nothing to collapse"),
        (["--output-dir", "in.fa"], "--output-dir is 'in.fa'; accepted: a folder, which is made where it is missing"),
    ],
)
def test_predict_refuses_what_it_cannot_do_with_a_reason(checkpoint, fasta, tmp_path, monkeypatch, flags, text):
    monkeypatch.chdir(tmp_path)
    arguments = ["--ckpt-dir", checkpoint, "--fasta", fasta, "--output-dir", tmp_path / "out"]
    result = run(predict_evo2, *arguments, *flags)
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [infer_evo2, predict_evo2])
def test_a_checkpoint_with_fp8_projections_says_what_a_device_without_costs(command, fasta, tmp_path):
    options = {**TINY, "fp8_projections": True}
    path = tmp_path / "fp8"
    save_checkpoint(path, StripedHyena2(**options), LazyConfig(StripedHyena2)(**options))
    flags = ["--ckpt-dir", path, "--device", "cpu", "--vortex-style-fp8"]
    flags += ["--max-new-tokens", 2] if command is infer_evo2 else ["--fasta", fasta, "--output-dir", tmp_path / "out"]
    refused = run(command, *flags)
    assert refused.exit_code == 2
    assert "--fp8-projections emulate, in Python fp8_projections='emulate', computes as that does" in refused.stderr
    assert run(command, *flags, "--fp8-projections", "emulate").exit_code == 0


@pytest.mark.parametrize("write", [["--write-interval", "batch"], []])
def test_predictions_that_do_not_fit_on_the_disk_are_one_line(checkpoint, tmp_path, write):
    """In a process of its own, which may write files of 8 KiB only."""
    (tmp_path / "in.fa").write_text(f">a\n{'ACGT' * 40}\n")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); "
        "from subquad.inference import predict_evo2; predict_evo2.main()"
    )
    arguments = ["--ckpt-dir", checkpoint, "--fasta", tmp_path / "in.fa", "--output-dir", tmp_path / "out", *write]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'out'}/predictions__rank_0__dp_rank_0")
    assert done.stderr.endswith("cannot be written: File too large\n")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("again", [["--write-interval", "batch"], []])
def test_a_second_run_does_not_mix_its_predictions_with_those_of_the_first(checkpoint, fasta, tmp_path, again):
    first = ["--write-interval", "batch", "--files-per-subdir", 2]
    predict(checkpoint, fasta, tmp_path / "out", *first)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "one.fa").write_text(">z\nACGTT\n")
    flags = ["--ckpt-dir", checkpoint, "--fasta", tmp_path / "one.fa", "--output-dir", tmp_path / "out", *again]
    refused = run(predict_evo2, *flags)
    assert refused.exit_code == 2
    assert "out'; accepted: a folder without predictions, or --overwrite; this one has " in refused.stderr
    assert len(list((tmp_path / "out").rglob("*.pt"))) == 3
    assert run(predict_evo2, *flags, "--overwrite", "--embedding-layer", 99).exit_code == 2
    assert len(list((tmp_path / "out").rglob("*.pt"))) == 3, "what is refused removes nothing"
    assert run(predict_evo2, *flags, "--overwrite").exit_code == 0
    assert len(list((tmp_path / "out").rglob("*.pt"))) == 1
    assert json.loads((tmp_path / "out" / "seq_idx_map.json").read_text()) == {"z": 0}
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_one_run_at_a_time_writes_to_a_folder(checkpoint, fasta, tmp_path):
    (tmp_path / "out").mkdir()
    flags = ["--ckpt-dir", checkpoint, "--fasta", fasta, "--output-dir", tmp_path / "out"]
    with held(tmp_path / "out"):  # as another run does
        for more in ([], ["--overwrite"]):
            result = run(predict_evo2, *flags, *more)
            assert result.exit_code == 2
            assert "out'; accepted: another folder, as long as the run that writes to it goes on" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []
    left = tmp_path / "out" / ".predictions__rank_0__dp_rank_0__batch_9.pt.partial"
    left.write_text("killed")
    assert run(predict_evo2, *flags).exit_code == 0
    assert not left.exists()


def test_what_cannot_be_predicted_is_told_before_the_network_is_loaded(checkpoint, fasta, tmp_path, monkeypatch):
    def load(*_arguments, **_options):
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(Engine, "from_checkpoint", load)
    (tmp_path / "one.fa").write_text(">a\nACGT\n>b\nA\n")
    flags = ["--ckpt-dir", checkpoint, "--fasta", tmp_path / "one.fa", "--output-dir"]
    result = run(predict_evo2, *flags, tmp_path / "out", "--output-log-prob-seqs")
    assert result.exit_code == 2
    assert "one.fa: record 'b' has 1 token, and the first one is not scored" in result.stderr
    result = run(predict_evo2, *flags, fasta / "out")
    assert result.exit_code == 2
    assert f"in.fa/out'; accepted: a folder that can be written; {fasta} cannot" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["", "²", "9" * 5000, "1"])
def test_a_limit_in_the_environment_is_checked_under_its_own_name(checkpoint, monkeypatch, value):
    monkeypatch.setenv("EVO2_MAX_SEQ_LEN", value)
    result = run(infer_evo2, "--ckpt-dir", checkpoint, "--prompt", "ACGT")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: EVO2_MAX_SEQ_LEN is ")


def test_predict_refuses_what_it_cannot_read_twice(checkpoint, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for source in ("-", tmp_path / "pipe"):
        result = run(predict_evo2, "--ckpt-dir", checkpoint, "--fasta", source, "--output-dir", tmp_path / "out")
        assert result.exit_code == 2
        assert f"--fasta is '{source}'; accepted: a file, which is read twice" in result.stderr
    assert not (tmp_path / "out").exists()


def test_names_that_occur_twice_are_refused(checkpoint, tmp_path):
    (tmp_path / "in.fa").write_text(">a\nACGT\n>a\nACGT\n")
    arguments = ["--ckpt-dir", checkpoint, "--fasta", tmp_path / "in.fa", "--output-dir", tmp_path / "out"]
    assert "in.fa, line 3: record 'a' has the id of the one on line 1" in run(predict_evo2, *arguments).stderr


def test_a_checkpoint_of_the_original_tools_is_refused_with_the_way_to_convert_it(tmp_path):
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("1")
    result = run(infer_evo2, "--ckpt-dir", tmp_path)
    assert "`subquad convert --from mbridge --to native` makes one" in result.stderr


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (
            infer_evo2,
            "ckpt-dir prompt prompt-file max-new-tokens temperature top-k top-p seed return-log-probs "
            "tensor-parallel-size pipeline-model-parallel-size context-parallel-size output-file "
            "mixed-precision-recipe vortex-style-fp8 max-seq-length max-seq-length-num-prompts max-batch-size "
            "use-subquadratic-ops cuda-graph-impl enable-chunked-prefill prompt-segmentation-threshold "
            "inference-dynamic-batching-max-tokens inference-dynamic-batching-block-size",
        ),
        (
            predict_evo2,
            "fasta ckpt-dir output-dir write-interval files-per-subdir micro-batch-size min-length prepend-bos "
            "output-log-prob-seqs log-prob-collapse-option embedding-layer tensor-parallel-size "
            "context-parallel-size pipeline-model-parallel-size no-sequence-parallel mixed-precision-recipe "
            "vortex-style-fp8 use-subquadratic-ops num-nodes devices hybrid-override-pattern num-layers "
            "seq-len-interpolation-factor eden-tokenizer mask-phylogenetic-tags",
        ),
    ],
)
def test_every_flag_of_the_original_is_there_and_explained(command, flags):
    app = typer.Typer()
    app.command()(command)
    options = {flag: option for option in typer.main.get_command(app).params for flag in option.opts}
    for flag in flags.split():
        assert len(options[f"--{flag}"].help or "") > 8, flag


@pytest.mark.parametrize("module", ["infer_evo2", "predict_evo2"])
def test_both_run_as_modules_of_this_source_tree(module):
    command = [sys.executable, "-m", f"subquad.inference.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "--ckpt-dir" in done.stdout
    where = f"import subquad.inference.{module} as m; print(m.__file__)"
    found = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, timeout=60, check=True)
    assert "packages/inference/src" in found.stdout
