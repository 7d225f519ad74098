"""pytest_test: a test target that runs pytest modules."""

load(":rules.bzl", "py_test")

def pytest_test(name, srcs, deps = [], data = [], options = [], marker = None, paths = None, **kwargs):
    """A test target that runs pytest modules.

    Args:
      name: of the target.
      srcs: the test files; other .py files they import come by `deps` or `data`.
      deps: libraries that the tests import; pytest itself is implied.
      data: files that the tests read.
      options: further options of pytest.
      marker: run the tests that bear this marker, instead of those that bear no marker of a tier.
      paths: workspace paths of the files, where srcs are labels of another package.
      **kwargs: attributes of every test rule: size, shard_count, tags, env, ...
    """
    folder = native.package_name() + "/" if native.package_name() else ""
    files = paths or [folder + src for src in srcs]
    py_test(
        name = name,
        srcs = srcs,
        main = "//tools/python:pytest_main.py",
        args = (["--marker", marker] if marker else []) + options + files,
        data = data + ["//:pyproject.toml"],
        deps = deps + ["@pypi//pytest", "@pypi//pytest_timeout"],
        **kwargs
    )
