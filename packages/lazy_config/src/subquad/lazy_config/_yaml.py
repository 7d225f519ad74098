"""YAML as YAML 1.2 reads plain words: ``1e-3`` is a number, ``2024-10-12``, ``no`` and ``1:30`` are texts."""

import re
from typing import Any

import yaml

from subquad.lazy_config.errors import ConfigFileError

MAX_CHARACTERS = 10_000_000
MAX_NODES = 200_000
MAX_DEPTH = 100

_RULES: tuple[tuple[str, str, str], ...] = (
    ("null", r"(?:~|null|Null|NULL|)\Z", "~nN"),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", "-+0123456789"),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        "-+.0123456789",
    ),
)


class Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's plain words; used to compose nodes, never to construct objects."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # yaml's own way to declare them


class Dumper(yaml.SafeDumper):
    """The safe dumper; quotes what either version of YAML would read as something else, and writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Every value is written where it stands."""
        return True


class Flow(list):
    """A list to be written on one line."""


class FlowMapping(dict):
    """A mapping to be written on one line."""


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


for _name, _pattern, _first in _RULES:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(_tag(_name), re.compile(_pattern), [*_first, *([""] if _name == "null" else [])])
Loader.add_implicit_resolver(_tag("merge"), re.compile(r"<<\Z"), ["<"])


def _represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """Quotes a text with characters that YAML takes for line breaks, so that they are escaped."""
    style = '"' if any(mark in text for mark in "\r\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar(_tag("str"), text, style=style)


Dumper.add_representer(str, _represent_text)
Dumper.add_representer(Flow, lambda d, data: d.represent_sequence(_tag("seq"), data, flow_style=True))
Dumper.add_representer(FlowMapping, lambda d, data: d.represent_mapping(_tag("map"), data, flow_style=True))


def compose(text: str, name: str) -> Any:
    """The node of the one document in ``text``, or None if it is empty.

    Raises:
      ConfigFileError: ``text`` is not YAML, too long, or nests too deeply.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigFileError(f"{name}: at most {MAX_CHARACTERS} characters are read, got {len(text)}")
    try:
        loader = Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigFileError(f"{name}{line}: not YAML: {problem}") from error
    except RecursionError as error:
        raise ConfigFileError(f"{name}: nests too deeply") from error


def scalar(node: yaml.ScalarNode, where: str) -> Any:
    """The value of a plain or quoted word.

    Raises:
      ConfigFileError: The node has a tag that a config does not use, or the word does not fit its tag.
    """
    kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
    try:
        match kind:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return {"true": True, "false": False}[text.lower()]
            case "int":
                return int(text, 0 if text[:2] in ("0x", "0o") else 10)
            case "float":
                return _real(text)
            case "binary":
                return yaml.SafeLoader("").construct_yaml_binary(node)
    except (ValueError, KeyError, yaml.YAMLError) as error:
        raise ConfigFileError(f"{where}: {text[:40]!r} is not a {kind}") from error
    raise ConfigFileError(f"{where}: the tag {node.tag} is not used in configs")


def _real(text: str) -> float:
    word = text.lower().replace("_", "")
    sign = -1.0 if word.startswith("-") else 1.0
    if word.lstrip("+-") in (".inf", ".nan"):
        return sign * float(word.lstrip("+-")[1:])
    return float(word)
