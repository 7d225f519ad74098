"""The Python examples of the README run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_runs(example: str):
    exec(compile(example, str(README), "exec"), {"__name__": "__main__"})


def test_there_is_an_example():
    assert EXAMPLES
