"""The checks that no linter on the market makes: size of files and functions, traces of one machine.

Each takes a path and the text of the file and returns messages, ``LINE: what is wrong; the way out``.
"""

import ast
import re

FILE_LINES = 600
FUNCTION_LINES = 60

# Kinds of files that a person writes and reads, so that their length matters.
WRITTEN = (".py", ".pyi", ".bzl", ".sh", ".cu", ".cuh", ".cc", ".cpp", ".h", ".proto", "BUILD", "WORKSPACE")

# Written in pieces, so that this file passes its own check.
REGISTRY_HOSTS = re.compile(
    "|".join(["pypi" + r"\.org", "python" + "hosted", "deb" + r"\.debian", "npm" + r"js\.(org|com)"])
)
MACHINE_PATHS = re.compile("|".join([r"(?<![\w.}])/(work|farm)" + "/", r"(?<![\w.}])/root" + r"/\."]))
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"]) + r")\b")


def matches(pattern: re.Pattern, text: str, advice: str) -> list[str]:
    """One message per line that the pattern occurs in."""
    found = ((number, pattern.search(line)) for number, line in enumerate(text.splitlines(), 1))
    return [f"{number}: {match[0]!r}: {advice}" for number, match in found if match]


def file_length(path: str, text: str) -> list[str]:
    """A file holds one subject and is read in one sitting."""
    lines = text.count("\n")
    if path.endswith(WRITTEN) and lines > FILE_LINES:
        return [f"1: {lines} lines, at most {FILE_LINES} are accepted; split it by subject"]
    return []


def function_length(path: str, text: str) -> list[str]:
    """A function fits on a screen; its docstring is not counted."""
    if not path.endswith(".py"):
        return []
    messages = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        documented = ast.get_docstring(node, clean=False) is not None
        first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
        lines = (node.end_lineno or node.lineno) - first.lineno + 1
        if lines > FUNCTION_LINES:
            messages.append(
                f"{node.lineno}: the body of {node.name} has {lines} lines, at most {FUNCTION_LINES} are accepted"
            )
    return messages


def registry_hosts(path: str, text: str) -> list[str]:
    """Where packages come from is the machine's business."""
    return matches(REGISTRY_HOSTS, text, "name no registry; the machine's pip, apt and npm are set up already")


def machine_paths(path: str, text: str) -> list[str]:
    """What is written here has to hold on every machine."""
    return matches(MACHINE_PATHS, text, "a path of one machine; take it from the environment or make it relative")


def unfinished(path: str, text: str) -> list[str]:
    """What is in is right; what is not in yet is absent."""
    if "/src/" not in path:
        return []
    return matches(UNFINISHED, text, "finish it or leave it out")


CHECKS = (file_length, function_length, registry_hosts, machine_paths, unfinished)
