"""What is collected where."""

from importlib.util import find_spec

# The oracle is a dependency of the Bazel target alone: a bare GPU machine runs every other test without it.
collect_ignore = [] if find_spec("nvsubquadratic") else ["test_nvsubquadratic.py"]
