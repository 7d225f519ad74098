"""A tree as YAML and back. Reading imports only what an allow-list names and builds nothing.

Beside plain YAML there are mappings with one key that says what they stand for: ``_target_`` (a config, its fields
beside it), ``_expr_``, ``_placeholder_``, ``_tuple_``, ``_set_``, ``_frozenset_``, ``_path_``, ``_import_`` (a class,
function, enum member or other named object) and ``_dict_`` (a list of key and value pairs, for dicts whose keys YAML or
this table would misread).
"""

import contextlib
import enum
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from subquad.lazy_config._paths import format_path
from subquad.lazy_config._targets import name_of, resolve_name
from subquad.lazy_config._yaml import MAX_DEPTH, MAX_NODES, Dumper, Flow, FlowMapping, compose, scalar
from subquad.lazy_config.errors import ConfigFileError, LazyConfigError, RenderError, TargetError
from subquad.lazy_config.expression import Expression, expr
from subquad.lazy_config.history import short_text, shown_path
from subquad.lazy_config.lazy import PLACEHOLDER, Config, LazyConfig, Placeholder, set_field

DEFAULT_ALLOWED = ("subquad.",)
_TARGET = "_target_"


def to_yaml(tree: Any) -> str:
    """The YAML text of a tree; ``from_yaml`` gives an equal tree back.

    Targets are written as ``module:qualname``. Fields may hold None, bool, int, float, str, bytes, paths, enum members,
    classes, functions, ``expr``, ``PLACEHOLDER``, and lists, tuples, dicts and sets of these and of configs.

    Raises:
      TargetError: A target, class or function has no name by which a file could refer to it.
      RenderError: A value has no YAML form; names its path and type.
    """
    data = _encode(tree, (), MAX_DEPTH)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)


def from_yaml(text: str, *, allowed: Sequence[str] = DEFAULT_ALLOWED, name: str = "<yaml>") -> Any:
    """The tree that a YAML text describes; nothing is built.

    Args:
      text: At most 10 million characters and 200,000 values, 100 levels deep.
      allowed: The packages that targets may come from, such as ``("subquad.",)``; nothing else is imported.
      name: What history and errors call the text, such as its file name.

    Raises:
      TargetRefusedError: A target is outside ``allowed``; its module is not imported.
      TargetError: A target does not exist.
      UnknownFieldError: A field is not a parameter of its target.
      ConfigFileError: The text is not YAML, or not the YAML of a tree; names the line.
    """
    node = compose(text, name)
    return None if node is None else _Decoder(allowed, name).decode(node, (), MAX_DEPTH)


def save_yaml(tree: Any, path: str | os.PathLike[str]) -> None:
    """Writes a tree to a YAML file; the file appears complete or not at all.

    Raises:
      RenderError, TargetError: As ``to_yaml``; nothing is written.
      OSError: The file cannot be written.
    """
    data = to_yaml(tree).encode()
    target = pathlib.Path(path)
    sibling = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with open(sibling, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, target)
    except BaseException:
        with contextlib.suppress(OSError):
            sibling.unlink()
        raise


def load_yaml(path: str | os.PathLike[str], *, allowed: Sequence[str] = DEFAULT_ALLOWED) -> Any:
    """The tree in a YAML file; as ``from_yaml``.

    Raises:
      ConfigFileError: The file cannot be read, or is not UTF-8; and all that ``from_yaml`` raises.
    """
    shown = shown_path(os.fspath(path))
    try:
        text = pathlib.Path(path).read_bytes().decode()
    except OSError as error:
        raise ConfigFileError(f"{shown}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{shown}: not UTF-8 at byte {error.start}") from error
    return from_yaml(text, allowed=allowed, name=shown)


def _encode(value: Any, keys: tuple[Any, ...], levels: int) -> Any:
    if levels < 0:
        raise RenderError(f"{format_path(keys)[:200]}: nests more than {MAX_DEPTH} levels")
    if isinstance(value, Config):
        head = {_TARGET: _named(value._lazy_target, keys)}
        return head | {n: _encode(v, (*keys, n), levels - 1) for n, v in value._lazy_fields.items()}
    if type(value) is dict:
        return _encode_dict(value, keys, levels)
    if type(value) in (list, tuple, set, frozenset):
        ordered = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        items = [_encode(item, (*keys, i), levels - 1) for i, item in enumerate(ordered)]
        if not any(isinstance(item, dict | list) for item in items):
            items = Flow(items)
        return items if type(value) is list else _special(f"_{type(value).__name__}_", items)
    if type(value) is str and not _is_text(value):
        raise RenderError(f"{format_path(keys) or 'the root'}: the text holds half a character, which has no YAML form")
    if type(value) in (str, int, float, bool, bytes) or value is None:
        return value
    if isinstance(value, Expression):
        return FlowMapping(_expr_=value.text)
    if isinstance(value, Placeholder):
        return FlowMapping(_placeholder_=True)
    if isinstance(value, pathlib.Path):
        return FlowMapping(_path_=str(value))
    if isinstance(value, enum.Enum) and value.name is not None:
        return FlowMapping(_import_=f"{_named(type(value), keys)}.{value.name}")
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return FlowMapping(_import_=_named(value, keys))
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "layout", "memory_format"):
        return FlowMapping(_import_=str(value).replace(".", ":", 1))
    raise RenderError(f"{format_path(keys) or 'the root'}: {short_text(value)} has no YAML form")


def _encode_dict(value: dict[Any, Any], keys: tuple[Any, ...], levels: int) -> Any:
    if all(type(key) is str and not _is_special(key) for key in value):
        return {key: _encode(item, (*keys, key), levels - 1) for key, item in value.items()}
    pairs = [
        [_encode(key, (*keys, key), levels - 1), _encode(item, (*keys, key), levels - 1)] for key, item in value.items()
    ]
    return _special("_dict_", pairs)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_special(key: Any) -> bool:
    return isinstance(key, str) and key.startswith("_") and key.endswith("_")


def _special(key: str, items: Any) -> Any:
    return FlowMapping({key: items}) if isinstance(items, Flow) else {key: items}


def _named(value: Any, keys: tuple[Any, ...]) -> str:
    try:
        return name_of(value)
    except TargetError as error:
        raise TargetError(f"{format_path(keys) or 'the root'}: {error}") from None


class _Decoder:
    """Turns YAML nodes into a tree, keeping the line of each field as its history."""

    def __init__(self, allowed: Sequence[str], name: str) -> None:
        if isinstance(allowed, str):
            raise LazyConfigError(f"allowed is a list of package names, got the text {allowed!r}")
        self._allowed, self._name, self._count = tuple(allowed), name, 0
        self._forms: dict[str, Callable[[Any, str, tuple[Any, ...], int], Any]] = {
            "_expr_": lambda n, where, keys, levels: expr(self._text(n, where)),
            "_placeholder_": self._placeholder,
            "_path_": lambda n, where, keys, levels: pathlib.Path(self._text(n, where)),
            "_import_": lambda n, where, keys, levels: resolve_name(self._text(n, where), self._allowed, where),
            "_tuple_": lambda n, where, keys, levels: tuple(self._items(n, where, keys, levels)),
            "_set_": lambda n, where, keys, levels: self._hashed(set, n, where, keys, levels),
            "_frozenset_": lambda n, where, keys, levels: self._hashed(frozenset, n, where, keys, levels),
            "_dict_": self._pairs,
        }

    def decode(self, node: yaml.Node, keys: tuple[Any, ...], levels: int) -> Any:
        """The value of ``node``, which stands at ``keys``."""
        where = self._where(node, keys)
        self._count += 1
        if levels < 0 or self._count > MAX_NODES:
            limit = f"more than {MAX_NODES} values" if levels >= 0 else f"nests more than {MAX_DEPTH} levels"
            raise ConfigFileError(f"{where}: {limit}")
        if isinstance(node, yaml.ScalarNode):
            return scalar(node, where)
        self._no_tag(node, where)
        if isinstance(node, yaml.SequenceNode):
            return self._items(node, where, keys, levels)
        assert isinstance(node, yaml.MappingNode)
        return self._mapping(node, where, keys, levels)

    def _mapping(self, node: yaml.MappingNode, where: str, keys: tuple[Any, ...], levels: int) -> Any:
        pairs = self._merged(node, where, keys, levels)
        if _TARGET in pairs:
            return self._config(pairs, where, keys, levels)
        special = [key for key in pairs if _is_special(key)]
        if not special:
            return {key: self.decode(value, (*keys, key), levels - 1) for key, value in pairs.items()}
        form = self._forms.get(special[0])
        if form is None or len(pairs) != 1:
            raise ConfigFileError(
                f"{where}: {special[0]} is not understood here; {_TARGET} has fields beside it, "
                f"and {', '.join(self._forms)} stand alone"
            )
        try:
            return form(pairs[special[0]], where, keys, levels)
        except LazyConfigError as error:
            if str(error).startswith(self._name):
                raise
            raise type(error)(f"{where}: {error}") from None

    def _merged(self, node: yaml.MappingNode, where: str, keys: tuple[Any, ...], levels: int) -> dict[Any, yaml.Node]:
        """The pairs of a mapping, those it takes over by ``<<`` first."""
        pairs: dict[Any, yaml.Node] = {}
        taken: dict[Any, yaml.Node] = {}
        for key_node, value in node.value:
            if key_node.tag.endswith(":merge"):
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in reversed(sources):
                    if not isinstance(source, yaml.MappingNode) or levels <= 0:
                        raise ConfigFileError(f"{where}: '<<' takes over mappings")
                    self._count += len(source.value)
                    taken.update(self._merged(source, where, keys, levels - 1))
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigFileError(f"{where}: a key is a word, not a list or mapping")
            key = scalar(key_node, self._where(key_node, keys))
            if key in pairs:
                raise ConfigFileError(f"{self._where(key_node, keys)}: {key!r} is given twice")
            pairs[key] = value
        return {**taken, **pairs}

    def _config(self, pairs: dict[Any, yaml.Node], where: str, keys: tuple[Any, ...], levels: int) -> Config[Any]:
        target_node = pairs.pop(_TARGET)
        target_where = self._where(target_node, keys)
        target = resolve_name(self._text(target_node, target_where), self._allowed, target_where)
        if not callable(target):
            raise TargetError(f"{target_where}: {short_text(target)} cannot be called")
        config = LazyConfig(target)()
        for key, node in pairs.items():
            if not isinstance(key, str):
                raise ConfigFileError(f"{where}: a field has a name, got {key!r}")
            value = self.decode(node, (*keys, key), levels - 1)
            try:
                set_field(config, key, value, f"{self._name}:{node.start_mark.line + 1}")
            except LazyConfigError as error:
                raise type(error)(f"{self._where(node, keys)}: {error}") from None
        return config

    def _items(self, node: yaml.Node, where: str, keys: tuple[Any, ...], levels: int) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            raise ConfigFileError(f"{where}: a list is needed here")
        return [self.decode(item, (*keys, i), levels - 1) for i, item in enumerate(node.value)]

    def _hashed(self, kind: Any, node: yaml.Node, where: str, keys: tuple[Any, ...], levels: int) -> Any:
        try:
            return kind(self._items(node, where, keys, levels))
        except TypeError as error:
            raise ConfigFileError(f"{where}: {error}") from None

    def _pairs(self, node: yaml.Node, where: str, keys: tuple[Any, ...], levels: int) -> dict[Any, Any]:
        result = {}
        for pair in self._items(node, where, keys, levels):
            if not isinstance(pair, list) or len(pair) != 2:
                raise ConfigFileError(f"{where}: _dict_ holds pairs of key and value")
            try:
                result[pair[0]] = pair[1]
            except TypeError as error:
                raise ConfigFileError(f"{where}: {error}") from None
        return result

    def _placeholder(self, node: yaml.Node, where: str, keys: tuple[Any, ...], levels: int) -> Any:
        if not isinstance(node, yaml.ScalarNode) or scalar(node, where) is not True:
            raise ConfigFileError(f"{where}: write _placeholder_: true")
        return PLACEHOLDER

    def _text(self, node: yaml.Node, where: str) -> str:
        value = scalar(node, where) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(value, str):
            raise ConfigFileError(f"{where}: a text is needed here")
        return value

    def _no_tag(self, node: yaml.Node, where: str) -> None:
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise ConfigFileError(f"{where}: the tag {node.tag} is not used in configs")

    def _where(self, node: yaml.Node, keys: tuple[Any, ...]) -> str:
        path = format_path(keys)
        return f"{self._name}:{node.start_mark.line + 1}" + (f": {path}" if path else "")
