"""cuda_toolkit: one CUDA directory assembled from locked wheels."""

_BUILD = """package(default_visibility = ["//visibility:public"])

exports_files(["STAMP", "cuda"])
"""

def _toolkit_impl(rctx):
    parts = [rctx.path(part) for part in rctx.attr.parts]
    command = ["bash", rctx.path(rctx.attr._assemble), rctx.path("cuda")] + [part.dirname for part in parts]
    result = rctx.execute(command, timeout = 600)
    if result.return_code:
        fail("assembling the CUDA toolkit failed:\n" + result.stderr)

    # Bazel tracks a directory by its time stamp, so actions also depend on the pins and hashes it was made of.
    rctx.file("STAMP", result.stdout + "".join([rctx.read(part) for part in parts]), executable = False)
    rctx.file("BUILD.bazel", _BUILD, executable = False)

cuda_toolkit = repository_rule(
    doc = "Makes `//:cuda`, a toolkit as one directory, and `//:STAMP`, which tells what it was made of.",
    implementation = _toolkit_impl,
    attrs = {
        "parts": attr.label_list(mandatory = True, doc = "the LOCK files of the hub's distributions"),
        "_assemble": attr.label(default = "//tools/cuda:assemble.sh"),
    },
)
