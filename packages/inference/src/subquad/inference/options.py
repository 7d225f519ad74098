"""What a caller asks of a generation, and what comes back."""

import math
import secrets
from dataclasses import dataclass
from typing import Literal

from subquad.inference.errors import InvalidOption

FinishReason = Literal["max_new_tokens", "end_of_document", "stop_sequence", "context_length"]
MAX_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to extend a prompt.

    Args:
      max_new_tokens: Tokens to sample at most; 1 or more. Those of a stop sequence and the end of a document count.
      temperature: 0 takes the most likely token (the lowest id among equals); else logits are divided by it.
      top_k: Keeps the ``top_k`` most likely tokens; 0 keeps all, 1 is greedy.
      top_p: Keeps the smallest set of most likely tokens whose probability reaches it, after temperature and top-k;
        above 0, up to 1.
      seed: 0 to 2**64 - 1; None draws one and reports it (0 if greedy). A draw depends on the seed, the sample's index
        and the position in the sequence only, so that it is the same alone and in a batch.
      stop: Generation ends before the first of these texts, which is left out of the result.
      return_logprobs: Also return the natural log-probability of each token under the plain model: temperature 1,
        no filter.

    Raises:
      InvalidOption: A value lies outside its range.
    """

    max_new_tokens: int = 100
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    return_logprobs: bool = False

    def __post_init__(self) -> None:
        _check_integer("max_new_tokens", self.max_new_tokens, 1, None)
        _check_integer("top_k", self.top_k, 0, None)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, MAX_SEED)
        if not (_is_real(self.temperature) and math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidOption("temperature", self.temperature, "a finite number, 0 or more; 0 is greedy")
        if not (_is_real(self.top_p) and 0 < self.top_p <= 1):
            raise InvalidOption("top_p", self.top_p, "a number above 0 and up to 1; 1 keeps all tokens")
        if isinstance(self.stop, str):
            raise InvalidOption("stop", self.stop, f"a sequence of texts, e.g. ({self.stop!r},)")
        object.__setattr__(self, "stop", tuple(self.stop))
        for index, text in enumerate(self.stop):
            if not isinstance(text, str) or not text or not text.isascii():
                raise InvalidOption(f"stop[{index}]", text, "a text of one or more ASCII characters")

    def with_seed(self) -> int:
        """Returns the seed; where none was given, a new random one, or 0 where nothing will be drawn."""
        if self.seed is not None:
            return self.seed
        return 0 if self.is_greedy else secrets.randbits(63)

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The continuation of one prompt.

    Attributes:
      text: The generated text without the prompt, one character a token (U+FFFD where a token is not printable).
      ids: The tokens of ``text``.
      logprobs: Natural log-probability of each token of ``ids``; None where they were not asked for.
      finish_reason: Why generation ended.
      seed: The seed that was used; with it the same call gives the same tokens.
      stop_sequence: The stop text that ended it, or None.
    """

    text: str
    ids: list[int]
    logprobs: list[float] | None
    finish_reason: FinishReason
    seed: int
    stop_sequence: str | None = None


@dataclass(frozen=True, kw_only=True)
class StreamEvent:
    """Some newly generated tokens of one prompt; the last event has a finish reason and may hold no tokens.

    Attributes:
      first_index: Index of the first token of ``ids`` among all generated ones.
      text: The tokens as text, one character a token.
      ids: The tokens.
      logprobs: Their natural log-probabilities, or None.
      seed: The seed in use.
      finish_reason: None until the last event.
      stop_sequence: The stop text that ended it, or None.
    """

    first_index: int
    text: str
    ids: list[int]
    logprobs: list[float] | None
    seed: int
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None


def _is_real(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 1 << 1023  # larger ones are no float
    return isinstance(value, float)


def _check_integer(field: str, value: object, low: int, high: int | None) -> None:
    accepted = f"an integer, {low} or more" if high is None else f"an integer from {low} to {high}"
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        raise InvalidOption(field, value, accepted)
