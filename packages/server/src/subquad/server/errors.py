"""The errors of the service, the same classes on both sides of the wire.

The server raises them and `subquad.server.status` turns them into gRPC statuses; the client turns the statuses back.
"""

from dataclasses import dataclass


class ServerError(Exception):
    """Base of every error of this package."""


class SettingsError(ServerError, ValueError):
    """A flag or setting is out of its accepted range; the server was not started."""


class ListenError(ServerError, OSError):
    """The server could not listen on the wanted address."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that was refused: its path (``sequences[3]``) and what is accepted."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


class RequestError(ServerError):
    """One request failed.

    Args:
      message: One line without sequence content.
      violations: The refused fields, at most 16.
      retry_delay: Seconds after which the same request may succeed, or None where a retry is useless.
      resource: Type and name of what was not found.
      quota: Name of the exhausted quota.
      request_id: The id under which the server logged the request; empty where unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        violations: tuple[FieldViolation, ...] = (),
        retry_delay: float | None = None,
        resource: tuple[str, str] | None = None,
        quota: str | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations
        self.retry_delay = retry_delay
        self.resource = resource
        self.quota = quota
        self.request_id = request_id

    def __str__(self) -> str:
        return self.message


class InvalidRequest(RequestError, ValueError):
    """A field of the request is out of its accepted range; `violations` lists the fields."""


class NotFound(RequestError, LookupError):
    """The named model or layer is not served."""


class UnsupportedRequest(RequestError):
    """The request is well formed, but this server cannot answer it in its present set-up."""


class MethodNotOffered(RequestError):
    """The server does not offer this method."""


class Overloaded(RequestError):
    """The queue is full, the message too big, or the device ran out of memory."""


class DeadlineExceeded(RequestError, TimeoutError):
    """The request did not end within its deadline."""


class Unavailable(RequestError, ConnectionError):
    """No server is reachable, or the server is loading, draining or dead."""


class Unauthenticated(RequestError):
    """The request bears no valid token."""


class PermissionDenied(RequestError):
    """The token does not allow this method."""


class RequestCancelled(RequestError):
    """The request was cancelled."""


class InternalError(RequestError):
    """The server failed; its log has the cause under `request_id`."""


class NonFiniteOutput(InternalError):
    """The model produced NaN or infinite logits."""
