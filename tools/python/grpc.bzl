"""py_grpc_library: Python modules generated from .proto files."""

load(":rules.bzl", "py_library")

def py_grpc_library(name, srcs, root = "", deps = [], visibility = None):
    """Generates `_pb2.py`, `_pb2.pyi` and `_pb2_grpc.py` for each .proto file, and a library of them.

    The modules are importable by the path of the .proto file below `root`: `proto/subquad/genomics/v1/service.proto`
    with `root = "proto"` becomes `subquad.genomics.v1.service_pb2`. `<name>_gen` is the generated files alone.

    Args:
      name: of the library.
      srcs: .proto files of this package, below `root`.
      root: folder of this package that import paths start from.
      deps: further libraries that the generated modules import.
      visibility: of the library and of the generated files.
    """
    stems = [src[:-len(".proto")] for src in srcs]
    outs = [stem + end for stem in stems for end in ["_pb2.py", "_pb2.pyi", "_pb2_grpc.py"]]
    package = native.package_name() + ("/" + root if root else "")
    native.genrule(
        name = name + "_gen",
        srcs = srcs,
        outs = outs,
        cmd = ("$(execpath //tools/python:protoc) -I{package} --python_out={out} --pyi_out={out} " +
               "--grpc_python_out={out} $(SRCS)").format(
            package = package,
            out = "$(RULEDIR)" + ("/" + root if root else ""),
        ),
        tools = ["//tools/python:protoc"],
        visibility = visibility,
    )
    py_library(
        name = name,
        srcs = [out for out in outs if out.endswith(".py")],
        data = [out for out in outs if out.endswith(".pyi")],
        imports = [root or "."],
        visibility = visibility,
        deps = deps + ["@pypi//grpcio", "@pypi//protobuf"],
    )
