"""The errors that subquad.ops raises, all before any kernel runs."""


class OpsError(Exception):
    """Base of every error of subquad.ops."""


class ShapeMismatch(OpsError, ValueError):
    """Two tensors disagree in shape; the text names both values."""


class DtypeMismatch(OpsError, TypeError):
    """A tensor has a dtype that the operator does not accept."""


class DeviceMismatch(OpsError, ValueError):
    """Two tensors lie on different devices."""


class ArgumentOutOfRange(OpsError, ValueError):
    """A plain argument has a value outside its accepted range."""


class BackendUnavailable(OpsError, RuntimeError):
    """The backend that was asked for cannot take this call; the text says why and what to do."""
