"""The errors of this package: each says what was got, what is accepted and the way out."""


class ModulesError(ValueError):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(ModulesError):
    """A constructor argument is outside its accepted range or does not fit another one."""


class InputMismatch(ModulesError):
    """An input has the wrong shape, dtype or batch size for the module or the state it meets."""


class StateCapacityExceeded(ModulesError):
    """A sequence would grow past the ``max_length`` that its state was made for."""


class ExchangeUnsupported(ModulesError):
    """The call needs the whole sequence on one rank, but the exchange splits it over several."""


class FusedOperatorsUnavailable(ModulesError):
    """Fused operators are demanded and none runs; the text says why."""


class StateUnsupported(ModulesError):
    """The mixer needs the whole sequence at once, so that there is no state to make or to continue."""
