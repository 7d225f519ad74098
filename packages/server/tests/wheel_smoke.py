"""Shows that the installed wheel works alone: stubs, limits, client and commands, without torch or an engine."""

import importlib.util

import typer

from subquad.genomics.v1 import service_pb2, service_pb2_grpc
from subquad.server import GenomicsClient, ServingLimits, Unavailable
from subquad.server.commands import register

assert importlib.util.find_spec("torch") is None
assert importlib.util.find_spec("subquad.inference") is None
assert ServingLimits().max_new_tokens == 4096
assert service_pb2.DESCRIPTOR.services_by_name["GenomicsService"].full_name == "subquad.genomics.v1.GenomicsService"
assert service_pb2_grpc.GenomicsServiceStub
with GenomicsClient("127.0.0.1:1", timeout=5) as client:
    assert not client.is_serving(timeout=1)
    try:
        client.get_model()
    except Unavailable as error:
        print("nobody serves there, as expected:", type(error).__name__)
    else:
        raise SystemExit("a call to nobody succeeded")
register(typer.Typer())
