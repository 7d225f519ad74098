"""Limits and durations in their form on the wire."""

from dataclasses import fields

from google.protobuf.duration_pb2 import Duration

from subquad.genomics.v1 import service_pb2 as pb
from subquad.server.limits import DEADLINE_FIELDS, ServingLimits


def limits_to_proto(limits: ServingLimits) -> pb.ServingLimits:
    """The wire form of `limits`."""
    message = pb.ServingLimits()
    for limit in fields(limits):
        value = getattr(limits, limit.name)
        if limit.name in DEADLINE_FIELDS:
            getattr(message, limit.name).CopyFrom(duration(value))
        else:
            setattr(message, limit.name, value)
    return message


def limits_from_proto(message: pb.ServingLimits) -> ServingLimits:
    """The limits that a server reported."""
    values = {}
    for limit in fields(ServingLimits):
        value = getattr(message, limit.name)
        values[limit.name] = seconds(value) if limit.name in DEADLINE_FIELDS else value
    return ServingLimits(**values)


def duration(value: float) -> Duration:
    """A protobuf Duration of `value` seconds."""
    nanoseconds = round(value * 1e9)
    return Duration(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def seconds(value: Duration) -> float:
    """The seconds of a protobuf Duration."""
    return value.seconds + value.nanos * 1e-9
