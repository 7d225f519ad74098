"""A network that tells in which order chunks are launched and results are read."""

import math

import pytest
import torch

from packages.inference.tests.conftest import tiny_network
from subquad.inference import ByteTokenizer, Engine
from subquad.inference.host_copy import HostCopy

BAD = ord("N")  # what follows it is spoilt
CHUNK = 16


class Watched:
    """A network that notes when a chunk is launched and when a result is read, and spoils what follows a token."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network = tiny_network()
        self.events: list[str] = []
        for name in ("encode", "encode_blocks"):
            monkeypatch.setattr(self.network, name, self._launching(getattr(self.network, name)))
        read = HostCopy.read

        def watched_read(copy: HostCopy) -> torch.Tensor:
            self.events.append("read")
            return read(copy)

        monkeypatch.setattr(HostCopy, "read", watched_read)
        self.engine = Engine(self.network, ByteTokenizer(), max_running=2, prefill_chunk=CHUNK, max_sequence_tokens=512)

    def _launching(self, encode):
        def launch(ids, *arguments, **keywords):
            self.events.append("launch")
            hidden = encode(ids, *arguments, **keywords)
            hidden[(ids == BAD).cumsum(1) > 0] = math.nan
            return hidden

        return launch
