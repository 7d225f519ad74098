"""Splits sequences and data over processes: process groups, the exchange of a split sequence, a Lightning strategy.

Needs torch alone; `init_parallel_state` needs the extra `[megatron]`, `subquad.parallel.strategy` also `[lightning]`.
"""

from subquad.parallel.errors import MissingExtraError as MissingExtraError
from subquad.parallel.errors import ParallelError as ParallelError
from subquad.parallel.errors import ParallelSizeError as ParallelSizeError
from subquad.parallel.errors import SplitShapeError as SplitShapeError
from subquad.parallel.exchange import ContextExchange as ContextExchange
from subquad.parallel.exchange import use_exchange as use_exchange
from subquad.parallel.sequence_order import zigzag_merge as zigzag_merge
from subquad.parallel.sequence_order import zigzag_order as zigzag_order
from subquad.parallel.sequence_order import zigzag_split as zigzag_split
from subquad.parallel.shards import TensorShards as TensorShards
from subquad.parallel.shards import own_part as own_part
from subquad.parallel.state import ParallelState as ParallelState
from subquad.parallel.state import destroy_parallel_state as destroy_parallel_state
from subquad.parallel.state import init_parallel_state as init_parallel_state
from subquad.parallel.traffic import Traffic as Traffic
