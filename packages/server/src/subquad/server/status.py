"""The one table from errors to gRPC statuses, read from left to right by the server and back by the client."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from subquad.server import errors
from subquad.server.errors import FieldViolation, RequestError
from subquad.server.limits import MAX_VIOLATIONS
from subquad.server.wire import duration, seconds

REQUEST_ID_KEY = "x-request-id"

CODES: dict[type[RequestError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.UnsupportedRequest: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MethodNotOffered: grpc.StatusCode.UNIMPLEMENTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.RequestCancelled: grpc.StatusCode.CANCELLED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
ERRORS = {code: error for error, code in CODES.items()}


def status_of(error: RequestError) -> tuple[grpc.StatusCode, str, Any]:
    """The gRPC status of an error: code, message, and the rich status to abort with (details within 8 KiB)."""
    code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    status = status_pb2.Status(code=code.value[0], message=error.message)
    for detail in _details(error):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, error.message, rpc_status.to_status(status)


def _details(error: RequestError) -> list[Any]:
    details: list[Any] = []
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.violations[:MAX_VIOLATIONS]
                ]
            )
        )
    if error.resource is not None:
        kind, name = error.resource
        details.append(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
    if error.quota is not None:
        violation = error_details_pb2.QuotaFailure.Violation(subject=error.quota, description=error.message)
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if error.retry_delay is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration(error.retry_delay)))
    if error.request_id:
        details.append(error_details_pb2.RequestInfo(request_id=error.request_id))
    return details


def error_of(code: grpc.StatusCode, message: str | None, trailers: Sequence[tuple[str, str | bytes]]) -> RequestError:
    """The typed error of a status as the client received it; a code outside the table is an `InternalError`."""
    known: dict[str, Any] = {"request_id": _metadata(trailers, REQUEST_ID_KEY)}
    for packed in _packed_details(trailers):
        match packed.TypeName():
            case "google.rpc.BadRequest":
                refused = _unpacked(packed, error_details_pb2.BadRequest())
                known["violations"] = tuple(FieldViolation(v.field, v.description) for v in refused.field_violations)
            case "google.rpc.RetryInfo":
                known["retry_delay"] = seconds(_unpacked(packed, error_details_pb2.RetryInfo()).retry_delay)
            case "google.rpc.ResourceInfo":
                resource = _unpacked(packed, error_details_pb2.ResourceInfo())
                known["resource"] = (resource.resource_type, resource.resource_name)
            case "google.rpc.QuotaFailure":
                quota = _unpacked(packed, error_details_pb2.QuotaFailure())
                known["quota"] = ", ".join(violation.subject for violation in quota.violations)
            case "google.rpc.RequestInfo":
                known["request_id"] = _unpacked(packed, error_details_pb2.RequestInfo()).request_id
    return ERRORS.get(code, errors.InternalError)(message or code.name.lower(), **known)


def _packed_details(trailers: Sequence[tuple[str, str | bytes]]) -> list[any_pb2.Any]:
    for key, value in trailers:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []


def _unpacked(packed: any_pb2.Any, message: Any) -> Any:
    packed.Unpack(message)
    return message


def _metadata(metadata: Sequence[tuple[str, str | bytes]], name: str) -> str:
    return next((value for key, value in metadata if key == name and isinstance(value, str)), "")
