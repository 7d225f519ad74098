"""Whether the server takes requests, and the standard health service that says so."""

from enum import Enum

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # pyright: ignore[reportAttributeAccessIssue]

from subquad.server.errors import Unavailable
from subquad.server.limits import SERVICE_NAME

RETRY_SECONDS = 1.0


class Phase(Enum):
    """The life of a server, in order; a failed engine ends it early."""

    LOADING = "is still loading its model"
    SERVING = "is serving"
    DRAINING = "is shutting down"
    FAILED = "has lost its engine"


class Readiness:
    """The one place that knows the phase; tells the health service under ``""`` and the service's name."""

    def __init__(self) -> None:
        self.phase = Phase.LOADING
        self._health = health_aio.HealthServicer()

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Registers ``grpc.health.v1.Health`` on a server, NOT_SERVING at first."""
        await self._tell()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    async def enter(self, phase: Phase) -> None:
        """Moves to a phase and tells every watcher."""
        self.phase = phase
        await self._tell()

    def check(self) -> None:
        """Raises Unavailable, with a time to retry, unless the server is serving."""
        if self.phase is not Phase.SERVING:
            raise Unavailable(f"the server {self.phase.value}", retry_delay=RETRY_SECONDS)

    async def _tell(self) -> None:
        serving = self.phase is Phase.SERVING
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)
