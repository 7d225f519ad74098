"""One decode step's choice of the most likely token: the public function."""

from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops.axes import Active, Logits, TokenIds, TokenTable


def greedy_step(logits: Logits, ids: TokenIds, *, active: Active | None = None, backend: str = "auto") -> TokenTable:
    """Chooses the most likely token of each row, the lowest id among equals, and keeps it as the row's next input.

    ``ids = argmax(logits)``; ``logprob = logits[ids] - log(sum(exp(logits)))``

    Args:
      logits: ``[batch, vocabulary]``.
      ids: int64 ``[batch]``, changed in place.
      active: ``[batch]``; the id of a row that is False is kept.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      Float64 ``[batch, 3]``: the chosen id, its log-probability, and 1 where all logits of the row are finite, else 0
      (then the id means nothing). Not differentiable.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch: an argument disagrees with logits; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    check(logits, ids, active=active)
    chosen, _ = dispatch.choose(describe(logits, ids, active=active), backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(logits, ids, active=active)


def check(logits: Tensor, ids: Tensor, *, active: Tensor | None = None) -> None:
    """Raises unless the arguments of a call fit each other."""
    batch, _ = _checks.step(logits, "logits")
    _checks.row_values("ids", ids, batch, logits, (torch.int64,), optional=False)
    _checks.row_values("active", active, batch, logits, (torch.bool,))


def describe(logits: Tensor, ids: Tensor, *, active: Tensor | None = None) -> dispatch.Call:
    """Describes a call to the dispatcher; ``taps`` is the size of the vocabulary."""
    return dispatch.Call(
        operator="greedy_step",
        dtype=logits.dtype,
        device=logits.device.type,
        index=logits.get_device(),
        batch=logits.shape[0],
        channels=1,
        length=1,
        taps=logits.shape[1],
        options=frozenset() if active is None else frozenset({"active"}),
        capturing=dispatch.capturing(logits),
    )


@without_autocast
def compute_in_torch(logits: Tensor, ids: Tensor, *, active: Tensor | None) -> Tensor:
    """Computes the checked call in plain torch; changes the ids in place and returns the table."""
    return prepare_in_torch(logits, ids, active=active)(logits)


def prepare_in_torch(logits: Tensor, ids: Tensor, *, active: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Returns the checked call as a function of the logits."""

    def choose(logits: Tensor) -> Tensor:
        wide = logits.double()
        chosen = wide.argmax(dim=-1)
        logprob = wide.gather(-1, chosen.unsqueeze(1)).squeeze(1) - torch.logsumexp(wide, dim=-1)
        finite = wide.sum(dim=-1).mul_(0) == 0  # infinity times 0 is not a number
        ids.copy_(chosen if active is None else torch.where(active, chosen, ids))
        return torch.stack((chosen, logprob, finite), dim=-1)

    return choose
