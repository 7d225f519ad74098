"""The tokenizer of the published checkpoints: one byte is one token."""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from subquad.inference.errors import InvalidOption, InvalidSequence, UnencodableCharacter

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CHARACTERS = tuple(chr(i) if 32 <= i < 127 else _REPLACEMENT for i in range(256))


@runtime_checkable
class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, which is the number of rows of the embedding."""
        ...

    @property
    def eod_id(self) -> int:
        """The id that ends a document."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that fills unused places; it is never scored."""
        ...

    def encode(self, text: str, *, field: str = "text") -> list[int]:
        """Turns a text into ids."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Turns ids into a text with one character a token."""
        ...


class ByteTokenizer:
    """Maps each byte of a text to the id of the same number: ``A`` is 65, ``C`` 67, ``G`` 71, ``T`` 84.

    Ids from 256 on exist in the embedding and are never made from a text. Case is kept.

    Args:
      vocab_size: Rows of the embedding; at least 256.

    Raises:
      InvalidOption: ``vocab_size`` is below 256.
    """

    eod_id = 0
    pad_id = 1

    def __init__(self, vocab_size: int = 512) -> None:
        if vocab_size < 256:
            raise InvalidOption("vocab_size", vocab_size, "256 or more, since each byte is one token")
        self._vocab_size = vocab_size

    @property
    def vocab_size(self) -> int:
        """Number of ids, which is the number of rows of the embedding."""
        return self._vocab_size

    def encode(self, text: str, *, field: str = "text") -> list[int]:
        """Returns the ids of an ASCII text, one for each character.

        Args:
          text: ASCII only, so that positions in the text and in the ids agree.
          field: What an error calls the text, e.g. ``prompts[3]``.

        Raises:
          UnencodableCharacter: A character is not ASCII.
        """
        if not text.isascii():
            position, character = next((i, c) for i, c in enumerate(text) if not c.isascii())
            raise UnencodableCharacter(field, character, position)
        return list(text.encode("ascii"))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Returns the ids of raw bytes, all 256 values allowed."""
        return list(data)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns one character for each id: itself where it is printable ASCII, else U+FFFD.

        Raises:
          InvalidSequence: An id lies outside the vocabulary.
        """
        ids = list(ids)
        self._check(ids)
        return "".join([_CHARACTERS[i] if i < 256 else _REPLACEMENT for i in ids])

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Returns the bytes of ids below 256; the exact inverse of `encode_bytes`.

        Raises:
          InvalidSequence: An id is no byte.
        """
        for position, i in enumerate(ids):
            if not 0 <= i < 256:
                raise InvalidSequence("ids", f"has {i} at position {position}; a byte is 0 to 255")
        return bytes(ids)

    def _check(self, ids: Sequence[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
            position, bad = next((p, i) for p, i in enumerate(ids) if not 0 <= i < self._vocab_size)
            raise InvalidSequence("ids", f"has {bad} at position {position}; accepted: 0 to {self._vocab_size - 1}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteTokenizer) and other.vocab_size == self.vocab_size

    def __hash__(self) -> int:
        return hash(("byte", self._vocab_size))

    def __repr__(self) -> str:
        return f"ByteTokenizer(vocab_size={self._vocab_size})"
