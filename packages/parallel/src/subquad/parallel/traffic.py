"""What an exchange sends: the formulas, and the counter that tests compare with them."""

from dataclasses import dataclass


@dataclass
class Traffic:
    """Bytes and messages that this rank sent in forward passes; backward passes send the same again.

    Attributes:
      sent_bytes: Bytes that left this rank.
      collectives: Calls of a collective or of a batched pair of messages.
    """

    sent_bytes: int = 0
    collectives: int = 0

    def add(self, sent_bytes: int) -> None:
        """Counts one call."""
        self.sent_bytes += sent_bytes
        self.collectives += 1


def halo_bytes(*, batch: int, channels: int, taps: int, size: int, rank: int, element_size: int) -> int:
    """Returns the bytes that a rank sends for one causal filter of `taps` taps in zigzag order.

    `2 * batch * channels * (taps - 1) * element_size`, half of it on the first and on the last rank.
    """
    if size == 1:
        return 0
    runs = 1 if rank in (0, size - 1) else 2
    return runs * batch * channels * (taps - 1) * element_size


def all_to_all_bytes(*, batch: int, channels: int, length: int, size: int, element_size: int) -> int:
    """Returns the bytes that a rank sends to trade length for channels, or back, once.

    `batch * channels * (length / size) * (size - 1) / size * element_size`, where `length` is the whole sequence.
    """
    return batch * channels * (length // size) * (size - 1) // size * element_size


def state_bytes(*, batch: int, channels: int, states: int, size: int, element_size: int) -> int:
    """Returns the bytes that a rank sends to pass the states of its two runs to all others.

    `2 * batch * channels * states * (size - 1) * element_size`.
    """
    return 2 * batch * channels * states * (size - 1) * element_size
