"""Who may connect and call: the bind address, TLS, and bearer tokens."""

import errno
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from subquad.server.errors import ListenError, PermissionDenied, RequestError, SettingsError, Unauthenticated
from subquad.server.status import status_of

DEFAULT_PORT = 50051
HEALTH_METHODS = "/grpc.health.v1.Health/"
AUTHORIZATION_KEY = "authorization"


@dataclass(frozen=True)
class BindAddress:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_bind(text: str) -> BindAddress:
    """Reads ``HOST:PORT``, ``[IPv6]:PORT`` or ``HOST`` alone (port 50051).

    Raises:
      SettingsError: No host, or a port outside 0 to 65535.
    """
    host, port = text, str(DEFAULT_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"bind is {text!r}; accepted: HOST:PORT with a port from 0 to 65535")
    return BindAddress(host, int(port))


def check_free(address: BindAddress) -> None:
    """Binds the address for a moment, since gRPC itself does not say why it cannot.

    Raises:
      ListenError: The port is taken, or the address is not of this machine; with the system's reason.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        reason = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror
        raise ListenError(f"cannot listen on {address}: {reason}") from None


@dataclass(frozen=True)
class TokenTable:
    """Bearer tokens and the methods each may call, kept as SHA-256 digests; empty: no token is asked for."""

    grants: dict[bytes, frozenset[str]] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> "TokenTable":
        """Reads a file of lines ``TOKEN`` or ``TOKEN Method,Method``; ``#`` starts a comment line.

        Raises:
          SettingsError: The file is unreadable or holds no token.
        """
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"token file {path}: {error}; accepted: a readable ASCII file") from None
        grants = {}
        for line in lines:
            token, *methods = line.split()[:2] or ["#"]
            if not token.startswith("#"):
                grants[_digest(token)] = frozenset(methods[0].split(",") if methods else ["*"])
        if not grants:
            raise SettingsError(f"token file {path} holds no token; accepted: one token a line")
        return TokenTable(grants)

    def check(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Raises Unauthenticated or PermissionDenied unless the metadata bears a token for `method`."""
        if not self.grants:
            return
        given = next((value for key, value in metadata if key == AUTHORIZATION_KEY), "")
        scheme, _, token = given.partition(" ") if isinstance(given, str) else ("", "", "")
        digest = _digest(token)
        granted = [methods for known, methods in self.grants.items() if hmac.compare_digest(known, digest)]
        if scheme.lower() != "bearer" or not granted:
            raise Unauthenticated("a valid bearer token is needed")
        if not granted[0] & {"*", method.rpartition("/")[2]}:
            raise PermissionDenied("the token does not allow this method")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True)
class Security:
    """Transport and call security of one server.

    Args:
      certificate: PEM chain of the server; together with `private_key` it turns TLS on.
      private_key: PEM key of the certificate.
      client_ca: PEM roots; clients must then present a certificate signed by one (mTLS).
      tokens: Bearer tokens; health stays open without one.
      allow_plaintext: Permits an address that others can reach without TLS.

    Raises:
      SettingsError: Half of a TLS pair is missing, or client_ca comes without TLS.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    tokens: TokenTable = field(default_factory=TokenTable)
    allow_plaintext: bool = False

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise SettingsError("tls-certificate and tls-key go together; one of them is missing")
        if self.client_ca is not None and self.certificate is None:
            raise SettingsError("tls-client-ca needs tls-certificate and tls-key")

    def check_bind(self, address: BindAddress) -> None:
        """Raises SettingsError where plaintext would be reachable from other machines."""
        if self.certificate is None and not self.allow_plaintext and not address.is_loopback:
            raise SettingsError(
                f"bind is {address}, which other machines can reach, without TLS; "
                "accepted: a loopback address, --tls-certificate with --tls-key, or --allow-plaintext"
            )

    def credentials(self) -> grpc.ServerCredentials | None:
        """The TLS credentials, or None for plaintext.

        Raises:
          SettingsError: A PEM file cannot be read.
        """
        if self.certificate is None or self.private_key is None:
            return None
        pair = (_pem(self.private_key), _pem(self.certificate))
        roots = _pem(self.client_ca) if self.client_ca else None
        return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=roots is not None)


def _pem(path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; accepted: a readable PEM file") from None
    if b"-----BEGIN" not in text:
        raise SettingsError(f"{path} is no PEM file; accepted: text with a -----BEGIN line")
    return text


class TokenGate(grpc.aio.ServerInterceptor):
    """Refuses every call without a token that allows it, before the request is parsed; health checks stay open."""

    def __init__(self, tokens: TokenTable) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Passes the call on, or answers it with the refusal."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(HEALTH_METHODS):
            return handler
        try:
            self._tokens.check(handler_call_details.method, handler_call_details.invocation_metadata or ())
        except RequestError as refusal:
            return _refusing(handler, refusal)
        return handler


def _refusing(handler: Any, refusal: RequestError) -> Any:
    """A handler of the same arity that only aborts; requests are not parsed."""
    code, message, status = status_of(refusal)

    async def refuse(request: object, context: grpc.aio.ServicerContext) -> None:
        await context.abort(code, message, status.trailing_metadata)

    streams = (handler.request_streaming, handler.response_streaming)
    arity = "_".join("stream" if streamed else "unary" for streamed in streams)
    return handler._replace(request_deserializer=None, **{arity: refuse})
