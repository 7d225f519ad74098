"""Parameters, buffers and parts of a module that are found at once.

``nn.Module`` looks for them when Python has looked everywhere else: a microsecond each, of which a network's pass over
a short sequence has hundreds.
"""

from typing import Any, Literal, no_type_check

from torch import nn


class _Registered:
    """Finds what a module has registered under the name of this attribute; what lies on the module itself goes first.

    It cannot be set, so that ``nn.Module`` registers, replaces and deletes as ever.
    """

    def __init__(self, kept_in: str) -> None:
        self._kept_in = kept_in

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @no_type_check  # torch.compile follows it, but no wrapper around it
    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        if module is None:
            return self
        try:
            return getattr(module, self._kept_in)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None  # then nn.Module looks everywhere, or says what is missing


def registered(kind: Literal["parameter", "buffer", "module"]) -> Any:
    """Returns a class attribute that stands for what instances register under its name.

    Args:
      kind: What it is; anything else that is registered under the name is still found, in the time that it takes.
    """
    return _Registered(f"_{kind}s")
