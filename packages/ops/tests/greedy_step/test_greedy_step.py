"""greedy_step against its definition."""

import pytest
import torch

from subquad.ops import DtypeMismatch, greedy_step
from subquad.ops.greedy_step.reference import greedy_step_reference


def test_the_first_largest_logit_and_its_log_probability_are_found() -> None:
    logits, ids = torch.randn(4, 60), torch.zeros(4, dtype=torch.int64)
    logits[1, 50] = logits[1, 20] = 7.0
    table = greedy_step(logits, ids)
    for row, (token, logprob) in enumerate(greedy_step_reference(logits)):
        assert ids[row] == token
        assert table[row, 0] == token
        assert float(table[row, 1]) == pytest.approx(logprob, rel=1e-12)
    assert ids[1] == 20
    assert table[:, 2].tolist() == [1.0] * 4


def test_inactive_rows_keep_their_id_and_bad_logits_are_reported() -> None:
    logits, ids = torch.randn(4, 60), torch.full((4,), 99)
    logits[2, 5], logits[3, 6] = torch.nan, -torch.inf
    table = greedy_step(logits, ids, active=torch.tensor([True, False, True, True]))
    assert ids[1] == 99
    assert ids[0] == logits[0].argmax()
    assert table[:, 2].tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.usefixtures("unchecked")
def test_ids_of_another_type_are_refused() -> None:
    with pytest.raises(DtypeMismatch, match=r"ids is torch\.int32"):
        greedy_step(torch.randn(2, 5), torch.zeros(2, dtype=torch.int32))
