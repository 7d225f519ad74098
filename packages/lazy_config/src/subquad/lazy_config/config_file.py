"""A whole experiment in a file: Python whose ``config()`` returns a tree, or YAML."""

import hashlib
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from subquad.lazy_config._containers import is_container
from subquad.lazy_config._targets import CONFIG_FILE_MARK
from subquad.lazy_config.errors import ConfigFileError, LazyConfigError
from subquad.lazy_config.history import short_text, shown_path
from subquad.lazy_config.lazy import Config
from subquad.lazy_config.yaml_form import DEFAULT_ALLOWED, load_yaml


def load_config_file(path: str | os.PathLike[str], *, allowed: Sequence[str] = DEFAULT_ALLOWED) -> Any:
    """The tree in a config file.

    A ``.py`` file is run and its ``config()`` is called without arguments, so run only files you trust. To derive one
    experiment from another, import it, or call ``load_config_file`` with the other's path. A ``.yaml`` or ``.yml`` file
    is read by ``load_yaml``, which runs nothing.

    Args:
      path: The file.
      allowed: The packages that the targets of a YAML file may come from; a Python file is not limited.

    Raises:
      ConfigFileError: The file is missing or of another kind, has no ``config()``, or raises an exception, which is
        then the cause; names the file's line.
    """
    file = pathlib.Path(path)
    shown = shown_path(os.fspath(path))
    if file.suffix in (".yaml", ".yml"):
        return load_yaml(file, allowed=allowed)
    if file.suffix != ".py":
        raise ConfigFileError(f"{shown}: a config file ends in .py, .yaml or .yml")
    if not file.is_file():
        raise ConfigFileError(f"{shown}: there is no such file")
    try:
        function = getattr(_run(file), "config", None)
        tree = function() if callable(function) and not isinstance(function, Config) else None
    except LazyConfigError as error:
        error.add_note(f"in {shown}")
        raise
    except Exception as error:
        raise ConfigFileError(f"{shown}{_line(error, file)}: {type(error).__name__}: {error}") from error
    if function is None or isinstance(function, Config) or not callable(function):
        raise ConfigFileError(f"{shown}: it must define a function config() that returns a tree")
    if not isinstance(tree, Config) and not is_container(tree):
        raise ConfigFileError(
            f"{shown}: config() must return a config, or a list, tuple or dict of them; got {short_text(tree)}"
        )
    return tree


def _run(file: pathlib.Path) -> Any:
    """The module of a file, under a name of its own, so that equal file names do not collide."""
    resolved = file.resolve()
    name = f"subquad_config_file_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ConfigFileError(f"{file}: cannot be run as Python")
    module = importlib.util.module_from_spec(spec)
    setattr(module, CONFIG_FILE_MARK, True)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        code = compile(resolved.read_bytes(), str(resolved), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # a config file is a program
    except BaseException:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before
        raise
    return module


def _line(error: Exception, file: pathlib.Path) -> str:
    """``:line`` of the config file, where the error has one."""
    resolved = str(file.resolve())
    if isinstance(error, SyntaxError) and error.filename == resolved:
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == resolved]
    return f":{lines[-1]}" if lines else ""
