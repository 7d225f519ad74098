"""The kernel of greedy_step: one program a row."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.linear_step.triton.pieces import await_previous


@triton.jit
def greedy_step_kernel(
    logits, ids, active, table, vocabulary, TOKENS: tl.constexpr, ACTIVE: tl.constexpr, DEPENDENT: tl.constexpr
):  # fmt: skip
    """Finds the first largest logit of a row, its log-probability, and whether all are finite."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.arange(0, TOKENS)
    inside = token < vocabulary
    await_previous(DEPENDENT)
    value = tl.load(logits + row * vocabulary + token, mask=inside, other=float("-inf")).to(tl.float64)
    bad = inside & ((value != value) | (tl.abs(value) == float("inf")))
    finite = tl.sum(bad.to(tl.int32), axis=0) == 0
    best = tl.max(value, axis=0)
    chosen = tl.min(tl.where(inside & (value == best), token, TOKENS - 1), axis=0)
    logprob = -tl.log(tl.sum(tl.where(inside, tl.exp(value - best), 0.0), axis=0))
    write = chosen >= 0
    if ACTIVE:
        write = write & (tl.load(active + row) != 0)
    tl.store(ids + row, chosen.to(tl.int64), mask=write)
    tl.store(table + 3 * row, chosen.to(tl.float64))
    tl.store(table + 3 * row + 1, logprob)
    tl.store(table + 3 * row + 2, tl.where(finite, 1.0, 0.0).to(tl.float64))
