"""Fixtures of the server's tests."""

from collections.abc import Iterator

import pytest

from packages.server.tests.running_server import RunningServer
from subquad.server import GenomicsClient


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A server with a fake engine, shared by the tests of a file."""
    with RunningServer() as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[GenomicsClient]:
    """A client of that server."""
    with server.client() as connected:
        yield connected
