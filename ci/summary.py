"""Prints how many tests passed, failed and were skipped in one `bazel test`, read from its event file.

usage: summary.py EVENT_FILE BAZEL_STATUS

Bazel counts targets; this counts the test cases of the run's JUnit files, cached results and shards included. A
target that does not build, or that dies outside any test, counts as one failure. So does a run that Bazel itself
calls failed for any other reason, an error in a BUILD file for example: it has no results to read.
"""

import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections import Counter

# Bazel's own exit status of a run without a single test target (all filtered out).
NO_TESTS_FOUND = 4


def read_cases(outputs: list[dict]) -> Counter:
    """Counts the cases in a test's JUnit file, by outcome."""
    counts = Counter()
    for output in outputs:
        if output["name"] == "test.xml":
            path = urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
            try:
                cases = ElementTree.parse(path).iter("testcase")
            except (OSError, ElementTree.ParseError):
                return counts
            for case in cases:
                broken = case.find("failure") is not None or case.find("error") is not None
                skipped = case.find("skipped") is not None
                counts["failed" if broken else "skipped" if skipped else "passed"] += 1
    return counts


def count(events: list[dict]) -> Counter:
    """Sums the cases of the last attempt of every target and shard, and the targets that gave none."""
    attempts, total = {}, Counter()
    for event in events:
        identity = event.get("id", {})
        if "testResult" in event:
            key = identity["testResult"]
            attempts[key["label"], key.get("shard", 0), key.get("run", 0)] = event["testResult"]
        elif "targetCompleted" in identity and not event.get("completed", {}).get("success"):
            total["failed"] += 1
    for result in attempts.values():
        cases = read_cases(result.get("testActionOutput", []))
        if result["status"] not in ("PASSED", "FLAKY") and not cases["failed"]:
            cases = Counter(failed=1)
        total += cases
    return total


def main() -> None:
    """Prints the line."""
    events_path, status = sys.argv[1], int(sys.argv[2])
    with open(events_path, encoding="utf-8") as file:
        total = count([json.loads(line) for line in file if line.strip()])
    if status not in (0, NO_TESTS_FOUND) and not total["failed"]:
        total["failed"] = 1
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")


if __name__ == "__main__":
    main()
