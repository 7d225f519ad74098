"""Runs pytest the way Bazel's test protocol asks.

usage: pytest_main.py [--marker NAME] [PYTEST OPTION]... TEST_FILE...

Test files are relative to the workspace. Without ``--marker`` every test is run that bears none of the markers
below; with it exactly those that bear NAME. The settings are those of the root pyproject.toml, as for plain pytest.
Sharding is by collected test, so that shards are stable and even. Results are written as JUnit XML, which
``ci/summary.py`` counts.
"""

import os
import sys

import pytest

# Markers of tests that need hardware or time; BUILD tags of the same meaning select their targets.
TIERS = ("gpu", "multi_gpu", "slow", "distributed", "notebooks")


class Sharding:
    """A pytest plugin that keeps this shard's share of the tests."""

    def __init__(self) -> None:
        self.total = int(os.environ.get("TEST_TOTAL_SHARDS", "1"))
        self.index = int(os.environ.get("TEST_SHARD_INDEX", "0"))
        self.selected = 0
        if status_file := os.environ.get("TEST_SHARD_STATUS_FILE"):
            with open(status_file, "w"):
                pass  # its presence tells Bazel that shards are understood

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Drops the other shards' tests, after ``-m`` and ``-k`` have chosen."""
        self.selected = len(items)
        if self.total > 1:
            dropped = [item for i, item in enumerate(items) if i % self.total != self.index]
            items[:] = items[self.index :: self.total]
            config.hook.pytest_deselected(items=dropped)


def own_folders() -> None:
    """Points everything that writes below HOME to the test's own folder, and keeps tests to one thread."""
    scratch = os.environ["TEST_TMPDIR"]
    os.environ.update(HOME=scratch, XDG_CACHE_HOME=f"{scratch}/cache", MPLCONFIGDIR=f"{scratch}/matplotlib")
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=f"{scratch}/inductor", TRITON_CACHE_DIR=f"{scratch}/triton")
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_options(root: str, marker: str | None) -> list[str]:
    """The options that stand for Bazel's environment variables."""
    scratch = os.environ["TEST_TMPDIR"]
    chosen = marker or " and ".join(f"not {tier}" for tier in TIERS)
    options = ["-c", f"{root}/pyproject.toml", "--rootdir", root, "-p", "no:cacheprovider", "-ra", "-m", chosen]
    options += ["--basetemp", f"{scratch}/pytest"]
    if xml := os.environ.get("XML_OUTPUT_FILE"):
        options += ["--junitxml", xml, "-o", "junit_family=xunit2"]
    if words := os.environ.get("TESTBRIDGE_TEST_ONLY"):
        options += ["-k", words]
    return options


def main(arguments: list[str]) -> int:
    """Runs the named files and returns pytest's exit status; a shard without a share passes."""
    root = os.path.join(os.environ["RUNFILES_DIR"], os.environ["TEST_WORKSPACE"])
    marker = None
    if arguments[:1] == ["--marker"]:
        marker, arguments = arguments[1], arguments[2:]
    own_folders()
    files = [each if each.startswith("-") else os.path.join(root, each) for each in arguments]
    sharding = Sharding()
    status = pytest.main([*pytest_options(root, marker), *files], plugins=[sharding])
    if status == pytest.ExitCode.NO_TESTS_COLLECTED and sharding.selected and sharding.total > 1:
        return 0
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
