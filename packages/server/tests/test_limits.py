from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.server import ServingLimits, SettingsError
from subquad.server.wire import duration, limits_from_proto, limits_to_proto, seconds


def test_the_defaults_are_the_documented_ones():
    limits = ServingLimits()
    assert (limits.max_new_tokens, limits.max_samples_per_request, limits.max_stop_sequences) == (4096, 16, 4)
    assert (limits.max_running_requests, limits.max_queued_requests) == (16, 64)
    assert (limits.max_queued_tokens, limits.max_tokens_per_request) == (1_048_576, 1_048_576)
    assert (limits.max_sequences_per_request, limits.max_variants_per_request) == (64, 1024)
    assert (limits.default_deadline, limits.max_deadline) == (600, 3600)
    assert limits.max_message_bytes == 8 << 20


def test_every_limit_survives_the_wire():
    values = {limit.name: index + 2 for index, limit in enumerate(fields(ServingLimits))}
    limits = ServingLimits(**values | {"max_deadline": 12.5, "default_deadline": 0.25})
    assert limits_from_proto(limits_to_proto(limits)) == limits


def test_the_message_has_no_limit_that_the_dataclass_lacks():
    names = {field.name for field in limits_to_proto(ServingLimits()).DESCRIPTOR.fields}
    assert names == {limit.name for limit in fields(ServingLimits)}


@pytest.mark.parametrize("name", [limit.name for limit in fields(ServingLimits)])
@pytest.mark.parametrize("value", [-1, 1 << 31, float("nan")])
def test_a_limit_out_of_range_is_refused_by_name(name, value):
    if "deadline" in name and value > 0:
        value = float("inf")
    with pytest.raises(SettingsError, match=f"{name} is .*; accepted: "):
        replace(ServingLimits(), **{name: value})


def test_the_default_deadline_may_not_exceed_the_longest():
    with pytest.raises(SettingsError, match="at most max_deadline, 5 s"):
        ServingLimits(max_deadline=5)


@given(st.floats(0, 1e6))
def test_durations_survive_the_wire_to_a_nanosecond(value):
    assert seconds(duration(value)) == pytest.approx(value, abs=1e-9, rel=1e-12)
