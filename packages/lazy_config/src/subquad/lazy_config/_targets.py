"""Names of targets, ``module:qualname``, and the allow-list that guards what a file may import."""

import functools
import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any

from subquad.lazy_config._paths import did_you_mean
from subquad.lazy_config.errors import TargetError, TargetRefusedError
from subquad.lazy_config.history import short_text

CONFIG_FILE_MARK = "__lazy_config_file__"
"""The name that marks a module made from a config file, which cannot be imported by name."""
_ALWAYS = {"builtins:dict": dict, "builtins:list": list, "builtins:tuple": tuple, "builtins:set": set}
_NEVER = __name__.rpartition(".")[0]


def name_of(value: Any) -> str:
    """The ``module:qualname`` under which a class, function or other named object is found.

    Raises:
      TargetError: There is no such name (a lambda, a local class, a partial, something defined in a config file).
    """
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(value, types.MethodType) and isinstance(value.__self__, type):
        module, qualname = value.__self__.__module__, f"{value.__self__.__qualname__}.{value.__name__}"
    if not isinstance(module, str) or not isinstance(qualname, str) or isinstance(value, functools.partial):
        raise TargetError(f"{short_text(value)} has no name under which a file could refer to it")
    if "<" in qualname:
        raise TargetError(f"{qualname} of {module} is local; a file can refer only to what a module defines at its top")
    found = sys.modules.get(module)
    if found is not None and hasattr(found, CONFIG_FILE_MARK):
        raise TargetError(f"{qualname} is defined in the config file {found.__file__}; move it to an importable module")
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is not value and found != value:
        raise TargetError(f"{module}:{qualname} is another object than {short_text(value)}; a file cannot refer to it")
    return f"{module}:{qualname}"


def resolve_name(name: Any, allowed: Sequence[str], where: str) -> Any:
    """The object called ``module:qualname``, imported only if the allow-list has its module.

    The object, too, must come from an allowed module: a module's own imports are not reachable through it.

    Args:
      name: What the file says.
      allowed: Package names, with or without a dot at the end, or whole ``module:qualname`` names.
      where: The place in the file, for messages.

    Raises:
      TargetRefusedError: ``name`` is outside the allow-list.
      TargetError: ``name`` has another form, or names nothing.
    """
    module_name, colon, qualname = name.partition(":") if isinstance(name, str) else ("", "", "")
    parts = [*module_name.split("."), *qualname.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise TargetError(
            f"{where}: {short_text(name)} is not a target; write 'module:name', such as 'subquad.modules:Hyena'"
        )
    if name in _ALWAYS:
        return _ALWAYS[name]
    dunder = any(part.startswith("__") for part in parts) and module_name != "__main__"
    if dunder or not is_allowed(module_name, name, allowed):
        shown = ", ".join(allowed) or "nothing"
        raise TargetRefusedError(f"{where}: {name} is refused and was not imported; allowed are {shown}")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise TargetError(f"{where}: {name} cannot be imported: {error}") from error
    except Exception as error:
        raise TargetError(f"{where}: importing {module_name} raised {type(error).__name__}: {error}") from error
    for part in qualname.split("."):
        holder = found
        try:
            found = getattr(holder, part)
        except AttributeError:
            raise TargetError(f"{where}: {name} does not exist{did_you_mean(part, dir(holder))}") from None
        if isinstance(found, types.ModuleType):
            raise TargetRefusedError(f"{where}: {name} is refused: {part} is another module; name that module itself")
    origin = getattr(found, "__module__", None)
    if not isinstance(origin, str):
        origin = type(found).__module__
    if not is_allowed(origin, name, allowed):
        raise TargetRefusedError(f"{where}: {name} is refused: it comes from {origin}, which is not allowed")
    return found


def is_allowed(module: str, name: str, allowed: Sequence[str]) -> bool:
    """Whether the allow-list has ``module``, or has ``name`` itself; this package is never a target."""
    if module == _NEVER or module.startswith(_NEVER + "."):
        return False
    for entry in allowed:
        package = entry.rstrip(".")
        if entry == name or (package and (module == package or module.startswith(package + "."))):
            return True
    return False
