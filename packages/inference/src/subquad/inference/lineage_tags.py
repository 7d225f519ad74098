"""The phylogenetic tags that Evo 2 saw in front of genomes: ``|d__Bacteria;p__Pseudomonadota;…;s__…|``."""

import re

from subquad.inference.errors import InvalidOption

RANKS = ("d", "p", "c", "o", "f", "g", "s")
_TAG = re.compile(r"\|[^|]*\|")
_TAG_OR_BASES = re.compile(r"\|[^|]*\||[^|]+")
_NAME = re.compile(r"[A-Za-z0-9 ._()-]+")


def phylogenetic_tag(lineage: str, *, field: str = "lineage") -> str:
    """Returns the tag of a lineage such as ``"d__Bacteria;g__Escherichia"``; ranks that are not given read ``None``.

    Args:
      lineage: Ranks as ``LETTER__NAME`` joined by ``;``, letters d, p, c, o, f, g and s in this order; also with the
        bars of a whole tag around it.
      field: What an error calls it.

    Raises:
      InvalidOption: It is no such text.
    """
    found: dict[str, str] = {}
    for part in lineage.strip().strip("|").strip(";").split(";"):
        letter, separator, name = part.strip().partition("__")
        late = [rank for rank in found if letter in RANKS and RANKS.index(rank) >= RANKS.index(letter)]
        if not separator or letter not in RANKS or late or not _NAME.fullmatch(name):
            accepted = "ranks such as d__Bacteria;p__Pseudomonadota, of the letters d p c o f g s in this order"
            raise InvalidOption(field, lineage, accepted)
        found[letter] = name
    return "|" + ";".join(f"{rank}__{found.get(rank, 'None')}" for rank in RANKS) + "|"


def without_tags(prompt: str) -> str:
    """Returns a prompt in which every complete tag is replaced by as many ``N``, for checks of its bases."""
    return _TAG.sub(lambda tag: "N" * len(tag[0]), prompt)


def upper_bases(prompt: str) -> str:
    """Returns a prompt in upper case but for its complete tags."""
    return _TAG_OR_BASES.sub(lambda part: part[0] if part[0][0] == "|" else part[0].upper(), prompt)
