"""The protobuf compiler with the gRPC plugin, as one program; grpcio-tools carries both."""

import os
import sys

import grpc_tools
from grpc_tools import protoc

if __name__ == "__main__":
    well_known_types = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    sys.exit(protoc.main(["protoc", *sys.argv[1:], f"-I{well_known_types}"]))
