"""Writes the gRPC stubs of proto/ into src/, for work outside Bazel (Bazel builds its own; none are stored in git).

Run as ``python packages/server/tools/generate_stubs.py``; needs grpcio-tools.
"""

import sys
from importlib.resources import files
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def generate(package: Path = PACKAGE) -> int:
    """Compiles every .proto under ``package/proto`` to ``_pb2.py``, ``_pb2.pyi`` and ``_pb2_grpc.py`` under ``src``."""
    from grpc_tools import protoc

    root, out = package / "proto", package / "src"
    protos = sorted(str(path) for path in root.rglob("*.proto"))
    well_known = files("grpc_tools") / "_proto"
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    return protoc.main(["protoc", f"-I{root}", f"-I{well_known}", *outputs, *protos])


if __name__ == "__main__":
    sys.exit(generate())
