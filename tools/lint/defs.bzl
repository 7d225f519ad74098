"""lint_test and types_test: what a package's files have to satisfy, as test targets."""

load("//tools/python:pytest.bzl", "pytest_test")
load("//tools/python:rules.bzl", "py_test")

# Nothing to read in these.
_BINARY = ["**/*." + ending for ending in ["gz", "ico", "jpg", "png", "safetensors", "whl"]]

# What the linters are and what buildifier is not asked for; for lint_test and for //tools/lint:fix.
LINTERS = [
    "//tools/lint:buildifier",
    "@pypi//ruff:LOCK",
    "@pypi//ruff:site",
]

LINTERS_ENV = {
    "LINT_BUILDIFIER": "$(rootpath //tools/lint:buildifier)",
    "LINT_BUILDIFIER_WARNINGS": ",".join(["-" + each for each in [
        "function-docstring",
        "function-docstring-args",
        "function-docstring-return",
        "module-docstring",
        "provider-params",
    ]]),
    "LINT_RUFF": "$(rootpath @pypi//ruff:site)",
}

def lint_test(name, files = None):
    """Formats, lints and budgets of every file of a Bazel package; see `checks.py` and `test_files.py`.

    Args:
      name: of the test.
      files: instead of all files below the BUILD file, up to the next one.
    """
    files = native.glob(["**"], exclude = _BINARY) if files == None else files
    folder = native.package_name() + "/" if native.package_name() else ""
    pytest_test(
        name = name,
        size = "small",
        srcs = ["//tools/lint:test_files.py"],
        paths = ["tools/lint/test_files.py"],
        # The root's pyproject.toml comes with every pytest target.
        data = [file for file in files if folder + file != "pyproject.toml"] + LINTERS,
        env = dict(LINTERS_ENV, LINT_FILES = ":".join([folder + file for file in files])),
        tags = ["lint"],
        deps = ["//tools/lint:checks"],
    )

# Type stubs that are published apart from their library.
_STUBS = ["@pypi//types_grpcio", "@pypi//types_protobuf", "@pypi//types_pyyaml"]

def types_test(name, srcs, deps):
    """basedpyright over the sources of a library, in the presence of its dependencies only.

    Args:
      name: of the test.
      srcs: the sources to check.
      deps: the library itself and its optional dependencies.
    """
    folder = native.package_name()
    py_test(
        name = name,
        size = "medium",
        srcs = ["//tools/lint:check_types.py"],
        args = ["%s/%s" % (folder, src) for src in srcs if src.endswith(".py")],
        data = ["//:pyproject.toml"],
        main = "//tools/lint:check_types.py",
        tags = ["lint"],
        deps = deps + _STUBS + ["@pypi//basedpyright"],
    )
