"""Checks of a request before any work starts; the same for the offline calls and for the scheduler."""

from collections.abc import Sequence

from torch import nn

from subquad.inference.embedding import POOLINGS, resolve_layer
from subquad.inference.errors import InvalidOption, InvalidSequence, RequestTooLarge
from subquad.inference.jobs import EmbedJob, GenerateJob, ScoreJob
from subquad.inference.scoring import check_strand, strand_inputs


def check_ids(ids: Sequence[int], vocab_size: int, *, field: str) -> None:
    """Checks that ids are integers of the vocabulary.

    Raises:
      InvalidSequence: An id is not.
    """
    try:
        if not ids or (
            min(ids) >= 0
            and max(ids) < vocab_size
            and all(issubclass(t, int) and t is not bool for t in set(map(type, ids)))
        ):
            return
    except TypeError:
        pass
    position, bad = next(
        (p, i) for p, i in enumerate(ids) if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < vocab_size
    )
    raise InvalidSequence(field, f"has {bad!r} at position {position}; accepted: integers from 0 to {vocab_size - 1}")


def check_size(field: str, value: int, least: int) -> None:
    """Checks an integer that a caller chose.

    Raises:
      InvalidOption: It is none, or too small, or beyond what 63 bits count.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
        raise InvalidOption(field, value, f"an integer from {least} to 2**63 - 1")


def check_generate_job(
    job: GenerateJob,
    *,
    vocab_size: int,
    max_sequence_tokens: int,
    slots: int,
    field: str = "prompt",
    ids_checked: bool = False,
) -> None:
    """Checks that a generation can run.

    A prompt that leaves room for fewer than ``max_new_tokens`` is accepted: it ends with ``context_length``. With
    ``ids_checked`` its ids went through `check_ids`, or were just made by the tokenizer.

    Raises:
      InvalidSequence: The prompt is empty or holds an id outside the vocabulary.
      RequestTooLarge: The prompt leaves no room for a new token, or more samples are asked for than rows exist.
      InvalidOption: ``num_samples`` is below 1, or ``top_k`` is above the vocabulary.
    """
    if not len(job.prompt_ids):
        raise InvalidSequence(field, "is empty; accepted: at least one token")
    if not ids_checked:
        check_ids(job.prompt_ids, vocab_size, field=field)
    if len(job.prompt_ids) >= max_sequence_tokens:
        raise RequestTooLarge(field, len(job.prompt_ids), max_sequence_tokens - 1, "tokens")
    if job.options.top_k > vocab_size:
        raise InvalidOption(
            "top_k", job.options.top_k, f"an integer from 0 to {vocab_size}, the size of the vocabulary"
        )
    if isinstance(job.num_samples, bool) or not isinstance(job.num_samples, int) or job.num_samples < 1:
        raise InvalidOption("num_samples", job.num_samples, f"an integer from 1 to {slots}")
    if job.num_samples > slots:
        raise RequestTooLarge("num_samples", job.num_samples, slots, "samples")


def check_score_job(
    job: ScoreJob,
    *,
    vocab_size: int,
    max_sequence_tokens: int,
    names: Sequence[str] | None = None,
    ids_checked: bool = False,
) -> None:
    """Checks that every sequence can be scored; ``names`` are what errors call them, default ``sequences[0]``, …

    See `check_generate_job` for ``ids_checked``.

    Raises:
      InvalidSequence: There is no sequence; or one has nothing to score, an id outside the vocabulary or no complement.
      RequestTooLarge: A sequence is longer than the network takes.
      InvalidOption: The strand is unknown, or cannot be combined with values of each token.
    """
    check_strand(job.strand, per_token=job.return_logprobs, prepend_eod=job.prepend_eod)
    if not len(job.sequences):
        raise InvalidSequence("sequences", "is empty; accepted: at least one sequence")
    for index, ids in enumerate(job.sequences):
        name = f"sequences[{index}]" if names is None else names[index]
        if not ids_checked:
            check_ids(ids, vocab_size, field=name)
        if len(ids) + job.prepend_eod > max_sequence_tokens:
            raise RequestTooLarge(name, len(ids), max_sequence_tokens - job.prepend_eod, "tokens")
        strand_inputs(ids, prepend=0 if job.prepend_eod else None, strand=job.strand, field=name)


def check_embed_job(job: EmbedJob, *, vocab_size: int, max_sequence_tokens: int, model: nn.Module) -> None:
    """Checks that every sequence can be embedded.

    Raises:
      InvalidSequence: There is no sequence, or one is empty or has an id outside the vocabulary.
      RequestTooLarge: A sequence is longer than the network takes.
      InvalidOption: There is no layer, the network has none of that name, or the pooling is unknown.
    """
    if job.pooling not in POOLINGS:
        raise InvalidOption("pooling", job.pooling, ", ".join(map(repr, POOLINGS)))
    if isinstance(job.layers, str) or not job.layers:
        raise InvalidOption("layers", job.layers, "a list of one or more layer names")
    for layer in job.layers:
        resolve_layer(layer, model)
    if not len(job.sequences):
        raise InvalidSequence("sequences", "is empty; accepted: at least one sequence")
    for index, ids in enumerate(job.sequences):
        if not len(ids):
            raise InvalidSequence(f"sequences[{index}]", "is empty; accepted: at least one token")
        check_ids(ids, vocab_size, field=f"sequences[{index}]")
        if len(ids) > max_sequence_tokens:
            raise RequestTooLarge(f"sequences[{index}]", len(ids), max_sequence_tokens, "tokens")


def require_subquadratic_ops(model: nn.Module) -> None:
    """Checks that fused operators can run in a network.

    Raises:
      InvalidOption: One of them cannot; says why.
    """
    from subquad.modules.errors import FusedOperatorsUnavailable

    try:
        model.require_subquadratic_ops()  # type: ignore[operator]
    except FusedOperatorsUnavailable as error:
        raise InvalidOption("use_subquadratic_ops", True, f"None or False here; {error}") from None
