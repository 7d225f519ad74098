"""What a mixer that sees the future answers when it is asked for a state."""

from typing import NoReturn

from subquad.modules.errors import StateUnsupported


def refuse_state(mixer: object, why: str = "it is not causal over one axis") -> NoReturn:
    """Refuses to run a mixer in pieces.

    Raises:
      StateUnsupported: Always; names the mixer and says why it has no state.
    """
    raise StateUnsupported(
        f"{type(mixer).__name__} cannot continue a sequence: {why}; call forward on whole sequences, without a state"
    )
