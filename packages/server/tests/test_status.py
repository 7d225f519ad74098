import grpc
import pytest
from google.rpc import status_pb2

from subquad.server import errors
from subquad.server.errors import FieldViolation, RequestError
from subquad.server.status import CODES, ERRORS, error_of, status_of


def subclasses(kind):
    return {kind} | {found for child in kind.__subclasses__() for found in subclasses(child)}


def test_every_error_of_a_request_has_a_code():
    for kind in subclasses(RequestError) - {RequestError}:
        code, message, status = status_of(kind("why"))
        assert (code, message) == (status.code, "why")
        assert code is not grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("kind", CODES)
def test_an_error_returns_from_the_wire_as_it_was(kind):
    sent = kind(
        "one line",
        violations=(FieldViolation("prompt", "is empty"), FieldViolation("sequences[3]", "has 'X'")),
        retry_delay=1.5,
        resource=("model", "other"),
        quota="queued requests",
        request_id="r1",
    )
    code, message, status = status_of(sent)
    got = error_of(code, message, tuple(status.trailing_metadata))
    assert type(got) is kind
    assert vars(got) == vars(sent)


def test_codes_outside_the_table_and_damaged_details_still_give_a_typed_error():
    got = error_of(grpc.StatusCode.DATA_LOSS, None, (("grpc-status-details-bin", b"\xff"), ("x-request-id", "r2")))
    assert type(got) is errors.InternalError
    assert (str(got), got.request_id, got.violations) == ("data_loss", "r2", ())
    assert len(ERRORS) == len(CODES)


def test_the_details_of_the_worst_case_stay_below_eight_kibibytes():
    worst = errors.InvalidRequest(
        "x" * 200,
        violations=tuple(FieldViolation(f"variants[{i}].alternate_bases", "d" * 160) for i in range(40)),
        request_id="r" * 64,
    )
    _, _, status = status_of(worst)
    details = dict(status.trailing_metadata)["grpc-status-details-bin"]
    assert len(details) < 6000
    assert len(status_pb2.Status.FromString(details).details) == 2
