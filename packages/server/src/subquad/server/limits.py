"""What one server accepts: the defaults and their checks."""

from dataclasses import dataclass, fields

from subquad.server.errors import SettingsError

SERVICE_NAME = "subquad.genomics.v1.GenomicsService"
MEBIBYTE = 1 << 20
MAX_STOP_LENGTH = 64
MAX_NAME_LENGTH = 128
MAX_VIOLATIONS = 16
DEFAULT_TOKENS_PER_MESSAGE, MAX_TOKENS_PER_MESSAGE = 16, 65_536
RESPONSE_CHUNK_BYTES = MEBIBYTE
DEADLINE_FIELDS = ("max_deadline", "default_deadline")


@dataclass(frozen=True)
class ServingLimits:
    """Limits of one server; every one is a flag of ``subquad serve`` and a field of GetModel's answer.

    Tokens are single characters. Deadlines are in seconds.

    Args:
      max_sequence_tokens: Longest sequence, prompt and generated tokens together; 0 takes the
        engine's own.
      max_new_tokens: Most tokens generated for one sample.
      max_sequences_per_request: Most sequences scored in one request.
      max_tokens_per_request: Most tokens of one request, all its sequences or samples together.
      max_running_requests: Slots of the engine.
      max_queued_requests: Most requests waiting for a slot.
      max_deadline: Longest time a request may take, whatever its own deadline says.
      default_deadline: Time given to a request that names no deadline.
      max_queued_tokens: Most prompt tokens waiting for a slot.
      max_variants_per_request: Most variants of one request.
      max_layers_per_request: Most layers of one embedding request.
      max_samples_per_request: Most samples of one prompt.
      max_stop_sequences: Most stop sequences, each of at most 64 characters.
      max_message_bytes: Largest request message.
      max_scored_tokens_with_logprobs: Most tokens of one request that asks for a log-probability per token.

    Raises:
      SettingsError: A limit is not positive, does not fit 32 bits, or the default deadline exceeds the maximum.
    """

    max_sequence_tokens: int = 0
    max_new_tokens: int = 4096
    max_sequences_per_request: int = 64
    max_tokens_per_request: int = 1 << 20
    max_running_requests: int = 16
    max_queued_requests: int = 64
    max_deadline: float = 3600.0
    default_deadline: float = 600.0
    max_queued_tokens: int = 1 << 20
    max_variants_per_request: int = 1024
    max_layers_per_request: int = 8
    max_samples_per_request: int = 16
    max_stop_sequences: int = 4
    max_message_bytes: int = 8 * MEBIBYTE
    max_scored_tokens_with_logprobs: int = RESPONSE_CHUNK_BYTES // 4

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            lowest = 0 if limit.name == "max_sequence_tokens" else 1
            if limit.name in DEADLINE_FIELDS:
                if not 0 < value < float("inf"):
                    raise SettingsError(f"{limit.name} is {value}; accepted: a positive number of seconds")
            elif not lowest <= value < 1 << 31:
                raise SettingsError(f"{limit.name} is {value}; accepted: {lowest} to {(1 << 31) - 1}")
        if self.default_deadline > self.max_deadline:
            accepted = f"at most max_deadline, {self.max_deadline:g} s"
            raise SettingsError(f"default_deadline is {self.default_deadline:g} s; accepted: {accepted}")

    def deadline(self, requested: float | None) -> float:
        """Seconds a request may take: as many as it asks for, else the default; never above the maximum."""
        return min(self.default_deadline if requested is None else requested, self.max_deadline)
