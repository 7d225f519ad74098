"""Windows: the same for the same seed, and every held-out base scored once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subquad.recipes.data import ConsumedSampler, EvaluationWindows, TrainingWindows, reverse_complement
from subquad.recipes.data.windows import PAD_ID
from subquad.recipes.errors import SettingError, SplitError


def genome(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.frombuffer(b"ACGT", dtype=np.uint8), length)


def test_a_window_depends_on_its_number_and_the_seed_alone():
    documents = [genome(1000), genome(300, seed=1)]
    whole = TrainingWindows(documents, window=64, samples=100, seed=5)
    again = TrainingWindows(documents, window=64, samples=7, seed=5)
    other = TrainingWindows(documents, window=64, samples=100, seed=6)
    assert torch.equal(whole[93], again[93])
    assert not torch.equal(whole[93], other[93])
    assert whole[0].dtype == torch.int64
    assert whole[0].shape == (65,)


def test_windows_lie_in_one_document_and_cover_all_of_it():
    documents = [np.arange(0, 90), np.arange(100, 140)]
    windows = TrainingWindows(documents, window=9, samples=4000)
    seen = set()
    for index in range(len(windows)):
        window = windows[index].numpy()
        assert np.all(np.diff(window) == 1)
        seen |= set(window.tolist())
    assert seen == set(range(90)) | set(range(100, 140))


def test_half_of_the_windows_are_of_the_other_strand():
    document = genome(4000)
    forward, backward = bytes(document), bytes(reverse_complement(document))
    windows = TrainingWindows([document], window=64, samples=400, both_strands=True)
    texts = [bytes(window.tolist()) for window in (windows[i] for i in range(400))]
    strands = [text in forward for text in texts]
    assert all(text in forward or text in backward for text in texts)
    assert 150 < sum(strands) < 250


def test_a_short_document_is_padded():
    window = TrainingWindows([genome(10)], window=16, samples=1)[0]
    assert window.shape == (17,)
    assert window[10:].tolist() == [PAD_ID] * 7


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=4), window=st.integers(2, 80))
@settings(max_examples=60, deadline=None)
def test_every_base_but_the_first_is_scored_once_with_enough_context(lengths: list[int], window: int):
    documents = [np.full(length, 1, dtype=np.uint8) * 65 for length in lengths]
    windows = EvaluationWindows(documents, window=window)
    scored = sum(int(windows[index].scored.sum()) for index in range(len(windows)))
    assert scored == sum(max(0, length - 1) for length in lengths)
    for index in range(len(windows)):
        ids, flags = windows[index]
        assert ids.shape == (window + 1,)
        assert not bool((flags & (ids[1:] == PAD_ID)).any())


def test_a_later_window_scores_with_half_a_window_of_context():
    document = np.arange(2, 102, dtype=np.uint8)
    windows = EvaluationWindows([document], window=20)
    targets = [windows[i].ids[1:][windows[i].scored].tolist() for i in range(len(windows))]
    assert [target for part in targets for target in part] == list(range(3, 102))
    for index in range(1, len(windows)):
        assert int(windows[index].scored.nonzero()[0]) >= 10


def test_a_resumed_sampler_goes_on_where_it_stopped_on_every_process():
    assert list(ConsumedSampler(10, consumed=6)) == [6, 7, 8, 9]
    assert list(ConsumedSampler(10, consumed=4, replicas=2, rank=1)) == [5, 7, 9]
    assert len(ConsumedSampler(10, consumed=4, replicas=2)) == 5


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingError, match="window: got 0; accepted is a whole number of at least 1"):
        TrainingWindows([genome(10)], window=0, samples=1)
    with pytest.raises(SettingError, match="samples: got 0"):
        TrainingWindows([genome(10)], window=1, samples=0)
    with pytest.raises(SettingError, match="window: got 1; accepted is a whole number of at least 2"):
        EvaluationWindows([genome(10)], window=1)
    with pytest.raises(SplitError, match="2 bases or more"):
        TrainingWindows([genome(1)], window=4, samples=1)
