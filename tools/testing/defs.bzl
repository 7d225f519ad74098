"""readme_test: the examples of a README, run."""

load("//tools/python:pytest.bzl", "pytest_test")

def readme_test(name, deps, readme = "README.md"):
    """Runs every Python block and checks every command of a README; see `test_readme_examples.py`.

    Args:
      name: of the test.
      deps: what the examples import.
      readme: the file, in this Bazel package.
    """
    folder = native.package_name() + "/" if native.package_name() else ""
    pytest_test(
        name = name,
        size = "medium",
        srcs = ["//tools/testing:test_readme_examples.py"],
        data = [readme],
        env = {"SUBQUAD_README": folder + readme},
        paths = ["tools/testing/test_readme_examples.py"],
        deps = deps,
    )
