"""How a client connects: service config (balancing, health), keepalive, TLS and token."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from subquad.server.limits import MEBIBYTE, SERVICE_NAME

MAX_RESPONSE_BYTES = 32 * MEBIBYTE
Channel = TypeVar("Channel", grpc.Channel, grpc.aio.Channel)


@dataclass(frozen=True)
class Connection:
    """How to reach one or several equal servers.

    Args:
      target: ``HOST:PORT``, or any gRPC target that resolves to several servers (``dns:///name:port``,
        ``ipv4:a:p,b:q``); calls go round robin to those whose health says SERVING.
      token: Bearer token; without TLS everybody on the way can read it.
      root_certificates: PEM roots to verify the server; given or not, `tls` turns TLS on.
      client_certificate: PEM chain that the client shows (mTLS), with `client_key`.
      client_key: PEM key of it.
      tls: Whether to use TLS; on by itself where a certificate is given.
      server_name: Name to expect in the server's certificate where it differs from the target's.
    """

    target: str
    token: str | None = None
    root_certificates: bytes | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = None
    tls: bool = False
    server_name: str | None = None

    @property
    def uses_tls(self) -> bool:
        """Whether the channel is encrypted."""
        return self.tls or self.root_certificates is not None or self.client_certificate is not None

    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS credentials, or None for plaintext."""
        if not self.uses_tls:
            return None
        return grpc.ssl_channel_credentials(self.root_certificates, self.client_key, self.client_certificate)

    def options(self) -> list[tuple[str, int | str]]:
        """The options of the channel."""
        options: list[tuple[str, int | str]] = [
            ("grpc.service_config", json.dumps(service_config())),
            ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        return options

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of each call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def open(self) -> grpc.Channel:
        """Opens a channel; it connects at the first call."""
        return self._open(grpc.insecure_channel, grpc.secure_channel)

    def open_async(self) -> grpc.aio.Channel:
        """Opens an asyncio channel."""
        return self._open(grpc.aio.insecure_channel, grpc.aio.secure_channel)

    def _open(self, insecure: Callable[..., Channel], secure: Callable[..., Channel]) -> Channel:
        credentials = self.credentials()
        if credentials is None:
            return insecure(self.target, options=self.options())
        return secure(self.target, credentials, options=self.options())


def service_config() -> dict[str, object]:
    """The service config: balanced over healthy servers. It holds no retry policy; `retrying` says why."""
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": SERVICE_NAME},
    }
