"""Tokenizers: bytes, as the published checkpoints have them, and the nucleotide table of NVIDIA's recipes."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from subquad.inference.errors import InvalidOption, InvalidSequence, UnencodableCharacter

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SPECIAL = ("<EOS>", "<PAD>", "<BOS>", "<SEP>", "<UNK>")
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
        """Turns a text into ids below ``vocab_size``, which nobody checks again."""
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
        check_vocabulary(ids, self._vocab_size)
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteTokenizer) and other.vocab_size == self.vocab_size

    def __hash__(self) -> int:
        return hash(("byte", self._vocab_size))

    def __repr__(self) -> str:
        return f"ByteTokenizer(vocab_size={self._vocab_size})"


class NucleotideTokenizer:
    """Maps each character from U+0005 on to the id of its code point, and every other one to the unknown token.

    Ids 0 to 4 are ``<EOS> <PAD> <BOS> <SEP> <UNK>``; no text makes the first four. It agrees with `ByteTokenizer` on
    ASCII text; beyond, a character is one id here and several bytes there. Case is kept.

    Args:
      vocab_size: Rows of the table and of the embedding, 512 or 256 in the published tokenizers.

    Raises:
      InvalidOption: ``vocab_size`` is below 128, which would leave ASCII out.

    Source: the tokenizers ``nucleotide_fast_tokenizer_512`` and ``_256`` of NVIDIA's Evo 2 recipes.
    """

    eod_id = 0
    pad_id = 1
    bos_id = 2
    sep_id = 3
    unknown_id = 4

    def __init__(self, vocab_size: int = 512) -> None:
        if vocab_size < 128:
            raise InvalidOption("vocab_size", vocab_size, "128 or more, so that ASCII has tokens")
        self._vocab_size = vocab_size

    @property
    def vocab_size(self) -> int:
        """Number of ids, which is the number of rows of the embedding."""
        return self._vocab_size

    @property
    def table(self) -> tuple[str, ...]:
        """The text of every id: names of the special tokens, then single characters."""
        return (*_SPECIAL, *(chr(i) for i in range(len(_SPECIAL), self._vocab_size)))

    def encode(self, text: str, *, field: str = "text") -> list[int]:
        """Returns one id for each character; names of special tokens in the text are read as plain characters.

        Args:
          text: Any text.
          field: Not needed, since every text has ids; the same in all tokenizers.
        """
        points = map(ord, text)
        return [i if len(_SPECIAL) <= i < self._vocab_size else self.unknown_id for i in points]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns one character for each id: itself, or U+FFFD for a special token.

        Raises:
          InvalidSequence: An id lies outside the vocabulary.
        """
        ids = list(ids)
        check_vocabulary(ids, self._vocab_size)
        return "".join([chr(i) if i >= len(_SPECIAL) else _REPLACEMENT for i in ids])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NucleotideTokenizer) and other.vocab_size == self.vocab_size

    def __hash__(self) -> int:
        return hash(("nucleotide", self._vocab_size))

    def __repr__(self) -> str:
        return f"NucleotideTokenizer(vocab_size={self._vocab_size})"


TOKENIZERS: Mapping[str, type[ByteTokenizer] | type[NucleotideTokenizer]] = MappingProxyType(
    {"byte": ByteTokenizer, "nucleotide": NucleotideTokenizer}
)


def tokenizer_of(name: str, vocab_size: int) -> ByteTokenizer | NucleotideTokenizer:
    """Returns a tokenizer by the name that checkpoints give it.

    Raises:
      InvalidOption: There is no such tokenizer, or it needs a larger vocabulary.
    """
    if name not in TOKENIZERS:
        raise InvalidOption("tokenizer", name, "one of " + ", ".join(TOKENIZERS))
    return TOKENIZERS[name](vocab_size)


def check_vocabulary(ids: Sequence[int], vocab_size: int) -> None:
    """Checks that ids lie in a vocabulary.

    Raises:
      InvalidSequence: One does not.
    """
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        position, bad = next((p, i) for p, i in enumerate(ids) if not 0 <= i < vocab_size)
        raise InvalidSequence("ids", f"has {bad} at position {position}; accepted: 0 to {vocab_size - 1}")
