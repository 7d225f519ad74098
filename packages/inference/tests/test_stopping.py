"""Tests of stop sequences."""

from hypothesis import given, settings
from hypothesis import strategies as st

from subquad.inference.stopping import StopMatcher, Token


def run(stream, stops):
    matcher, out = StopMatcher([tuple(s) for s in stops]), []
    for i in stream:
        certain, found = matcher.push(Token(i))
        out += [t.id for t in certain]
        if found is not None:
            return out, found
    return out + [t.id for t in matcher.flush()], None


def test_a_stop_that_spans_tokens_ends_the_stream_before_it():
    assert run([1, 2, 3, 4], [(2, 3)]) == ([1], 0)


def test_a_partial_stop_is_held_back_and_let_go():
    matcher = StopMatcher([(1, 2, 3)])
    assert matcher.push(Token(1)) == ([], None)
    assert matcher.push(Token(2)) == ([], None)
    assert [t.id for t in matcher.push(Token(4))[0]] == [1, 2, 4]


def test_a_repeated_beginning_is_found():
    assert run([1, 1, 2], [(1, 2)]) == ([1], 0)
    assert run([1, 2, 1, 2, 3], [(1, 2, 3)]) == ([1, 2], 0)


def test_of_two_stops_that_end_together_the_one_that_began_first_wins():
    assert run([9, 1, 2], [(2,), (1, 2)]) == ([9], 1)


def test_a_stop_inside_the_beginning_of_a_longer_one_loses_no_token():
    assert run([9, 1, 2, 3], [(2,), (1, 2, 3)]) == ([9, 1], 0)


def test_a_long_stop_takes_no_longer_where_many_tokens_are_held_back():
    compared = []

    class Id(int):
        __hash__ = int.__hash__

        def __eq__(self, other):
            compared.append(other)
            return int.__eq__(self, other)

        def __ne__(self, other):
            compared.append(other)
            return int.__ne__(self, other)

    length = 300
    near = tuple(Id(1) for _ in range(length))
    matcher = StopMatcher([(*near, Id(2)), (Id(3), *near)])
    compared.clear()
    for _ in range(2 * length):
        assert matcher.push(Token(1))[1] is None
    assert len(compared) < 2 * 2 * length * 4  # a few of each token and stop, however many are held


def test_without_stops_every_token_is_certain_at_once():
    assert StopMatcher([]).push(Token(5)) == ([Token(5)], None)


@settings(max_examples=1000)
@given(
    st.lists(st.integers(0, 2), max_size=30),
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=3),
)
def test_the_result_equals_a_search_in_the_whole_stream(stream, stops):
    ends = [
        (end, -len(stop), index)
        for index, stop in enumerate(stops)
        for end in range(len(stop), len(stream) + 1)
        if stream[end - len(stop) : end] == stop
    ]
    if not ends:
        assert run(stream, stops) == (stream, None)
    else:
        end, minus_length, _ = min(ends)
        out, found = run(stream, stops)
        assert out == stream[: end + minus_length]
        assert stops[found] == stream[end + minus_length : end]
