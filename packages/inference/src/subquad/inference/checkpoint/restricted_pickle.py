"""Unpickling that makes data and runs no code: a class that a pickle names becomes an inert record, or is refused."""

import io
import pickle
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from subquad.inference.checkpoint.pickle_work import refuse_endless_keys
from subquad.inference.errors import CheckpointError


def shown(value: object) -> str:
    """Spells a value out of a file for an error, cut short: a few nested lists may hold more than any memory."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 2, 80, 80, 80
    return short.repr(value)


def text_of(error: Exception) -> str:
    """Returns the text of an error that was raised while a file was read, see `shown`."""
    return str(error) if all(isinstance(part, str | int | None) for part in error.args) else shown(error.args)


def _bytes_of(text: str, encoding: str) -> bytes:
    """Undoes how old pickles spell bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes are spelt in {shown(encoding)}; accepted: 'latin1'")
    return text.encode("latin1")


_PLAIN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): tuple,
    ("_codecs", "encode"): _bytes_of,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("pathlib", "PosixPath"): lambda *parts: "/".join(parts),
    ("pathlib", "PurePosixPath"): lambda *parts: "/".join(parts),
}


class InertRecord:
    """What an object of an accepted class is read as: its arguments and its state, and nothing that acts.

    Attributes:
      arguments: What the class would have been called with.
      state: What its ``__setstate__`` would have been given, where that is no dictionary of attributes.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        """Keeps the state; a dictionary becomes attributes."""
        if not hasattr(self, "arguments"):
            self.arguments = ()
        self.state = state
        if isinstance(state, tuple) and len(state) == 2 and state[0] is None and isinstance(state[1], dict):
            state = state[1]
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        file: io.BytesIO,
        where: str,
        records: Callable[[str, str], bool],
        functions: Mapping[tuple[str, str], Any],
        storages: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(file)
        self._where, self._records, self._functions, self._storages = where, records, functions, storages
        self._made: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        key = (module, name)
        if key in self._made:
            return self._made[key]
        if key in _PLAIN:
            found = _PLAIN[key]
        elif key in self._functions:
            found = self._functions[key]
        elif module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            found = getattr(torch, name)
        elif self._records(module, name):
            found = type(
                name, (InertRecord,), {}
            )  # one of this unpickling's own, so that nothing shared can be changed
        else:
            raise CheckpointError(
                f"{self._where}: names {module}.{name}, which is no data, and is not read since that could run its code"
            )
        self._made[key] = found
        return found

    def persistent_load(self, pid: Any) -> Any:
        if self._storages is not None:
            return self._storages(pid)
        raise CheckpointError(f"{self._where}: refers to {shown(pid)} outside itself, and is not read")


def load_inert(
    data: bytes,
    where: str,
    *,
    records: Collection[tuple[str, str]] | Callable[[str, str], bool] = (),
    functions: Mapping[tuple[str, str], Any] | None = None,
    storages: Callable[[Any], Any] | None = None,
) -> Any:
    """Unpickles plain data.

    Args:
      data: The pickle.
      where: What errors call it.
      records: Module and name of the classes that may occur; their objects come back as `InertRecord`.
      functions: Our own stand-ins for functions that may be called, and for values that may be named.
      storages: Gives what a reference to outside the pickle stands for; without it there must be none.

    Raises:
      CheckpointError: It names anything else, has keys that would take forever, or is no pickle.
    """
    accepted = records if callable(records) else lambda module, name: (module, name) in records
    try:
        refuse_endless_keys(io.BytesIO(data), where, size=len(data))
        return _Unpickler(io.BytesIO(data), where, accepted, functions or {}, storages).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        problem = f"is no pickle of plain data: {type(error).__name__}: {text_of(error)}"
        raise CheckpointError(f"{where}: {problem}") from None
