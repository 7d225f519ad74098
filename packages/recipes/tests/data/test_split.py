"""No base is both trained on and held out, whatever is asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subquad.recipes.data import split_documents
from subquad.recipes.errors import SettingError, SplitError


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents in which every base is a different number."""
    starts = np.cumsum([0, *lengths[:-1]])
    return [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]


@given(
    lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=5),
    fraction=st.floats(0.02, 0.5),
    block=st.integers(16, 600),
    seed=st.integers(0, 9),
)
@settings(max_examples=100, deadline=None)
def test_every_base_is_on_one_side_only(lengths: list[int], fraction: float, block: int, seed: int):
    documents = numbered(lengths)
    try:
        split = split_documents(documents, fraction=fraction, block_length=block, seed=seed)
    except SplitError:
        assert max(lengths) * fraction < 17
        return
    training, held_out = (set(np.concatenate(part).tolist()) if part else set() for part in split[:2])
    assert held_out
    assert not training & held_out
    # A single base between two blocks cannot be trained on.
    assert len(training | held_out) >= sum(lengths) - len(split.spans) - len(lengths)
    for piece, (number, start, stop) in zip(split.held_out, split.spans, strict=True):
        assert np.array_equal(piece, documents[number][start:stop])


def test_training_pieces_are_contiguous_in_their_document():
    for piece in split_documents(numbered([20_000]), fraction=0.3).training:
        assert np.all(np.diff(piece) == 1)


def test_the_share_held_out_is_near_what_was_asked_for():
    split = split_documents(numbered([48_502]), fraction=0.1)
    assert sum(map(len, split.held_out)) == 5 * 1024


def test_the_split_depends_on_the_seed_alone():
    documents = numbered([48_502, 9_000])
    assert split_documents(documents, seed=3).spans == split_documents(documents, seed=3).spans
    assert split_documents(documents, seed=3).spans != split_documents(documents, seed=4).spans


def test_whole_records_are_held_out_on_request():
    documents = numbered([100, 200, 300, 400])
    split = split_documents(documents, fraction=0.2, by="record")
    assert sorted(map(len, split.training + split.held_out)) == [100, 200, 300, 400]
    assert sum(map(len, split.held_out)) >= 200
    assert split.training


def test_too_little_sequence_is_refused():
    with pytest.raises(SplitError, match="got 1 record, accepted are 2 or more"):
        split_documents(numbered([1000]), by="record")
    with pytest.raises(SplitError, match="the longest sequence has 100 bases, accepted are 160 or more"):
        split_documents(numbered([100, 50]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.0}, "fraction: got 0.0; accepted is a number above 0 and at most 0.5"),
        ({"fraction": 0.6}, "fraction: got 0.6"),
        ({"block_length": 8}, "block_length: got 8; accepted is a whole number of at least 16"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(SettingError) as caught:
        split_documents(numbered([5000]), **arguments)
    assert message in str(caught.value)
