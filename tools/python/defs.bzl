"""Macros that BUILD files use: subquad_library, subquad_tests, pytest_test, py_binary. See README.md."""

load("//tools/lint:defs.bzl", "lint_test", "types_test")
load("//tools/testing:defs.bzl", "readme_test")
load(":imports.bzl", "imports_test", "is_label")
load(":pytest.bzl", _pytest_test = "pytest_test")
load(":rules.bzl", _py_binary = "py_binary", _py_library = "py_library", _py_test = "py_test")

py_binary = _py_binary
py_library = _py_library
py_test = _py_test
pytest_test = _pytest_test

# Marker of a test -> tags of the target that runs it. GPU tests run one at a time.
_TIERS = {
    "distributed": ["distributed"],
    "gpu": ["exclusive", "gpu"],
    "multi_gpu": ["exclusive", "gpus:2"],
    "notebooks": ["notebooks"],
    "slow": ["slow"],
}

def _package():
    """The dotted name of the Python package that a BUILD file under packages/ holds."""
    return "subquad." + native.package_name().split("/")[-1]

def subquad_library(
        name,
        deps = [],
        optional_deps = [],
        data = [],
        srcs = [],
        visibility = None):
    """The library of one package: everything under src/.

    Also makes `<name>_imports_test`, which fails for an import that no direct dependency provides,
    `<name>_types_test`, basedpyright over the sources, and `<name>_lint_test`, which reads every file of the package.

    Args:
      name: of the target, the package's own name.
      deps: direct dependencies only: `@pypi//torch`, and siblings as `//packages/ops`.
      optional_deps: dependencies of extras, as labels, or as module names where no lock has them. They are no part of
        the library, may be imported inside functions, and at the top of those modules that `import subquad.<name>`
        does not load. Tests that need them list them.
      data: package data under src/.
      srcs: for generated sources beside the globbed ones.
      visibility: the package's own group in the layer table, `//packages:above_<name>`; `subquad`, the top, is public.
    """
    accepted = ["//visibility:public" if name == "subquad" else "//packages:above_" + name]
    if visibility not in (None, accepted):
        fail("%s: who may see a package is said in packages/BUILD; accepted: visibility = %r" % (name, accepted))
    sources = native.glob(["src/**/*.py"], exclude = ["**/*_pb2*"]) + srcs
    _py_library(
        name = name,
        srcs = sources,
        data = native.glob(["src/**/py.typed"]) + data,
        imports = ["src"],
        visibility = accepted,
        deps = deps,
    )
    imports_test(
        name = name + "_imports_test",
        deps = deps,
        library = name,
        optional_deps = optional_deps,
        package = _package(),
    )
    lint_test(name = name + "_lint_test")
    types_test(
        name = name + "_types_test",
        srcs = sources,
        deps = [name] + [dep for dep in optional_deps if is_label(dep)],
    )

def subquad_tests(
        name,
        deps,
        data = [],
        sizes = {},
        shards = {},
        gpu = [],
        multi_gpu = [],
        slow = [],
        distributed = [],
        notebooks = [],
        marked_only = [],
        typecheck = True,
        tags = {},
        env = {}):
    """One test target per tests/**/test_*.py, named after its path without `.py`, and a suite of the plain ones.

    Where the package has a README.md, `readme_test` runs its examples.

    A file that holds tests of a tier is listed under that tier and gets a further target, `<path>.<tier>`, with the
    tier's tags, which runs exactly those. `conftest.py` and the other .py files under tests/ come with every target.

    Args:
      name: of the suite.
      deps: all that the tests import; pytest, jaxtyping and beartype are implied.
      data: files that the tests read.
      sizes: {file: size}; small (the default) is up to 60 s on one free core, medium 300 s, large 900 s.
      shards: {file: number of processes that share its tests}.
      gpu: files with tests marked `gpu`.
      multi_gpu: files with tests marked `multi_gpu`.
      slow: files with tests marked `slow`; their targets are large.
      distributed: files with tests marked `distributed`.
      notebooks: files with tests marked `notebooks`.
      marked_only: those of the files above in which every test is marked: they get no plain target.
      typecheck: check the package's annotations, array shapes included, whenever a test calls it.
      tags: {file: further tags}.
      env: environment variables of every test.
    """
    files = native.glob(["tests/**/test_*.py"])
    support = native.glob(["tests/**/*.py"], exclude = ["tests/**/test_*.py"])
    options, implied = [], []
    if typecheck:
        options = ["--jaxtyping-packages=%s,beartype.beartype" % _package()]
        implied = [dep for dep in ["@pypi//beartype", "@pypi//jaxtyping"] if dep not in deps]
    tiers = {
        "distributed": distributed,
        "gpu": gpu,
        "multi_gpu": multi_gpu,
        "notebooks": notebooks,
        "slow": slow,
    }

    # A listed file that does not exist is a target that does not build, and breaks nothing else.
    listed = list(sizes) + list(shards) + list(tags) + marked_only + [file for tier in tiers.values() for file in tier]
    files = depset(files + listed, order = "preorder").to_list()
    plain = []
    for file in files:
        target = file[:-len(".py")]
        common = dict(
            srcs = [file],
            data = data + support,
            env = env,
            options = options,
            deps = deps + implied,
        )
        if file not in marked_only:
            plain.append(target)
            _pytest_test(
                name = target,
                size = sizes.get(file, "small"),
                shard_count = shards.get(file),
                tags = tags.get(file, []),
                **common
            )
        for tier, members in tiers.items():
            if file in members:
                _pytest_test(
                    name = "%s.%s" % (target, tier),
                    size = sizes.get(file, "large" if tier == "slow" else "medium"),
                    marker = tier,
                    tags = _TIERS[tier] + tags.get(file, []),
                    **common
                )
    if native.glob(["README.md"], allow_empty = True):
        readme_test(name = "readme_test", deps = deps)
    if plain:
        native.test_suite(name = name, tests = plain)
