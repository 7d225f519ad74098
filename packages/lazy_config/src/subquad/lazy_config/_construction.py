"""The error for a target that raised: of our type and of the type of what was raised."""

import functools
from typing import Any

from subquad.lazy_config._scope import Place
from subquad.lazy_config._signature import target_name
from subquad.lazy_config.errors import ConstructionError
from subquad.lazy_config.history import short_text


def construction_error(error: Exception, place: Place) -> ConstructionError:
    """A ``ConstructionError`` that is also a ``type(error)``, with path, signature and where each field was set."""
    config = place.raw
    target = target_name(config._lazy_target)
    lines = [
        f"{place.shown}: {target} raised {type(error).__name__}: {error}",
        f"  signature: {config._lazy_signature}",
    ]
    for name, value in config._lazy_fields.items():
        source = config._lazy_history.source(name)
        lines.append(f"  {name} = {short_text(value)}" + (f", set at {source}" if source else ""))
    return _rebuild(type(error), "\n".join(lines), dict(vars(error)))


def _rebuild(kind: type[Exception], message: str, state: dict[str, Any]) -> ConstructionError:
    try:
        combined = _combined(kind)(message)
        vars(combined).update({k: v for k, v in state.items() if k != "__notes__"})
    except Exception:  # a type that cannot be derived from, or wants other arguments
        combined = ConstructionError(message)
    return combined


@functools.lru_cache(maxsize=256)
def _combined(kind: type[Exception]) -> type[ConstructionError]:
    def begin(self: Any, message: str) -> None:
        self.args = (message,)

    def reduce(self: Any) -> tuple[Any, ...]:
        return _rebuild, (kind, self.args[0], dict(vars(self)))

    body = {
        "__init__": begin,
        "__str__": lambda self: self.args[0],
        "__reduce__": reduce,
        "__module__": ConstructionError.__module__,
        "__doc__": ConstructionError.__doc__,
    }
    return type(f"ConstructionError[{kind.__name__}]", (ConstructionError, kind), body)
