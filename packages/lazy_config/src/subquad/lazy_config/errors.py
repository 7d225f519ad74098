"""Every error this package raises, all of them a ``LazyConfigError``.

The first line of a message says what is wrong, with the path of the field inside the tree; further lines, where there
are any, give the target's signature and where each field was set.
"""


class LazyConfigError(Exception):
    """Anything that is wrong with a config; base of all errors of this package."""


class UnknownFieldError(LazyConfigError, AttributeError):
    """A field was named that the target does not take or the tree does not hold."""


class FieldNotSetError(LazyConfigError, AttributeError):
    """A field was read that the target takes but the config does not set."""


class PathError(LazyConfigError, ValueError):
    """A path such as ``model.blocks[0].depth`` cannot be read."""


class MissingFieldError(LazyConfigError, ValueError):
    """Required fields have no value, or are still ``PLACEHOLDER``, when the tree is built."""


class ExpressionError(LazyConfigError, ValueError):
    """An expression cannot be read or evaluated, refers to nothing, or is too large."""


class ReferenceCycleError(ExpressionError):
    """A field refers to itself, directly or through other fields."""


class ConstructionError(LazyConfigError):
    """A target raised an exception; the error raised is also of the type of that exception, which is its cause."""


class OverrideError(LazyConfigError, ValueError):
    """A ``key=value``, ``+key=value`` or ``~key`` override cannot be read or applied."""


class TargetError(LazyConfigError, ValueError):
    """A target cannot be called, cannot be written as ``module:qualname``, or cannot be found under such a name."""


class TargetRefusedError(TargetError):
    """A target read from a file is outside the allow-list; nothing of it was imported."""


class RenderError(LazyConfigError, ValueError):
    """A value of the tree has no YAML form."""


class ConfigFileError(LazyConfigError, ValueError):
    """A config file is missing, malformed, too large or does not define ``config()``."""
