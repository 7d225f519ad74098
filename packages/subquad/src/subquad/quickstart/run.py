"""The steps of the main job, in order."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from subquad.inference import Track, draw_tracks
from subquad.lazy_config import Config, apply_overrides, instantiate
from subquad.quickstart.errors import NothingLearned, QuickstartError
from subquad.quickstart.serving import server_process
from subquad.recipes.configs.small import config as small_config
from subquad.recipes.training import TrainingConfig, TrainingResult, train
from subquad.recipes.training.sequences import load_split
from subquad.server.client import GenomicsClient, SequenceScore

OUTPUT_FOLDER = "subquad-quickstart"
_PASSES = 19  # over the training bases, as the default run makes: many more teach a small genome by heart
_FEWEST_STEPS = 30
_TRANSITION = {"A": "G", "G": "A", "C": "T", "T": "C"}


@dataclass(frozen=True, kw_only=True)
class QuickstartResult:
    """What the main job found and where it is.

    Attributes:
      output: The folder that holds everything.
      training: Held-out bits per base, baselines and the files of the training run.
      generated: Bases that the served model added to `prompt`.
      prompt: The prompt of the generation.
      reference: Score of the held-out sequence, by the server.
      mutant: Score of the same sequence with one base changed.
      mutation: The change, as `REFERENCE POSITION ALTERNATE` with a 1-based position, such as `A513G`.
      track: The per-base likelihood track, a PNG.
    """

    output: Path
    training: TrainingResult
    generated: str
    prompt: str
    reference: SequenceScore
    mutant: SequenceScore
    mutation: str
    track: Path


def run_quickstart(
    output: Path,
    *,
    genome: Path | None = None,
    overrides: list[str] | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> QuickstartResult:
    """Trains, compares, saves, serves, generates and scores; replaces `output` only when all of it has worked.

    Args:
      output: The folder to leave; one that an earlier run left there is replaced at the end.
      genome: A FASTA file to train on; default: phage lambda, which ships with the recipes.
      overrides: Changes of the training configuration, such as `run.steps=50`.
      say: Takes each line of news.
      progress: Whether training shows its progress bar on stderr.

    Raises:
      NothingLearned: The network is not below the order-0 entropy of the held-out bases.
      QuickstartError: `output` is something else than a folder that an earlier run left, or the server failed.
    """
    _check_replaceable(output)
    tree = small_config()
    if genome is not None:
        tree.data.genomes = [str(genome)]
        tree.run.steps = _steps_for(tree)
    tree = apply_overrides(tree, overrides or [])
    held_out = max(load_split(instantiate(tree.data)).held_out, key=len)
    sequence = bytes(held_out).decode("ascii")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        say(f"training on {genome or 'phage lambda (NC_001416.1)'}")
        training = train(tree, output=partial / "run", progress=progress)
        _check_learned(training)
        say(f"serving {output / 'run' / 'checkpoint'} over gRPC on the loopback interface")
        with server_process(training.checkpoint) as address, GenomicsClient(address) as client:
            result = _use_the_service(client, training, sequence, partial, say)
        _replace(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return _moved(result, partial, output)


def _steps_for(tree: Config[TrainingConfig]) -> int:
    """The default number of steps, or fewer where they would pass over a small genome too often."""
    bases = sum(map(len, load_split(instantiate(tree.data)).training))
    passes = _PASSES * bases // (tree.run.batch_size * tree.data.window)
    return min(tree.run.steps, max(_FEWEST_STEPS, passes))


def _use_the_service(
    client: GenomicsClient, training: TrainingResult, sequence: str, folder: Path, say: Callable[[str], None]
) -> QuickstartResult:
    """Streams a generation, scores a held-out sequence and a mutant of it, and draws the likelihood track."""
    model = client.get_model()
    limit = model.limits.max_sequence_tokens
    sequence = sequence[: min(len(sequence), limit)]
    prompt = sequence[: min(200, len(sequence) // 2)]
    say(f"streaming a generation from {model.name} after {len(prompt)} held-out bases")
    pieces = []
    stream = client.generate(prompt, max_new_tokens=min(120, limit - len(prompt)), temperature=0.8, top_k=4, seed=1)
    with stream:
        for piece in stream.text_pieces():
            pieces.append(piece)
            if piece:
                say(f"  … {piece}")
    position = len(sequence) // 2
    changed = _TRANSITION.get(sequence[position], "A")
    mutant = sequence[:position] + changed + sequence[position + 1 :]
    scores = client.score([sequence, mutant], return_logprobs=True)
    track = folder / "likelihood.png"
    title = f"Likelihood of {len(sequence)} held-out bases under {model.name}"
    draw_tracks([Track(model.name, scores[0].logprobs, first_position=1)], track, title=title)
    return QuickstartResult(
        output=folder,
        training=training,
        generated="".join(pieces),
        prompt=prompt,
        reference=scores[0],
        mutant=scores[1],
        mutation=f"{sequence[position]}{position + 1}{changed}",
        track=track,
    )


def _check_learned(training: TrainingResult) -> None:
    """Holds the network to the entropy of the base frequencies, which no order-0 model can beat."""
    if not training.held_out_bits < training.order0_entropy:
        raise NothingLearned(
            f"the network needs {training.held_out_bits:.4f} bits per held-out base, not less than the order-0 entropy "
            f"of {training.order0_entropy:.4f}: it has learned no more than base frequencies, or its training "
            "bases by heart; train it for longer or shorter (run.steps=…), or on more sequence"
        )


def _check_replaceable(output: Path) -> None:
    """Refuses to replace what no earlier run has left."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise QuickstartError(f"{output} exists and is no folder; name another with --output")
    if output.is_dir() and any(output.iterdir()) and not (output / "run" / "summary.json").is_file():
        raise QuickstartError(f"{output} holds something else than an earlier run's files; name another with --output")


def _replace(partial: Path, output: Path) -> None:
    """Moves the finished folder to its place; the earlier one is kept until the new one stands there."""
    partial.chmod(0o755)
    (partial / "loss.png").hardlink_to(partial / "run" / "loss.png")
    earlier = partial.with_name(partial.name + ".earlier")
    if output.exists():
        output.rename(earlier)
    try:
        partial.rename(output)
    except BaseException:
        if earlier.exists():
            earlier.rename(output)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _moved(result: QuickstartResult, partial: Path, output: Path) -> QuickstartResult:
    """The result with every path in the folder's final place."""
    paths = {
        field.name: output / getattr(result.training, field.name).relative_to(partial)
        for field in fields(result.training)
        if isinstance(getattr(result.training, field.name), Path)
    }
    track = output / result.track.relative_to(partial)
    return replace(result, output=output, track=track, training=replace(result.training, **paths))
