"""Sequence mixers behind one contract, and the networks built of them."""

from subquad.modules.exchange import LocalExchange as LocalExchange
from subquad.modules.exchange import SequenceExchange as SequenceExchange
