"""This package's engine, driven through its public calls."""

import torch
from random_network import random_network, stored_bytes

from subquad.inference import ByteTokenizer, Engine, GenerationOptions
from subquad.modules import StripedHyena2Preset, round_linears


class OurEngine:
    """Runs the cases on our engine."""

    name = "subquad"

    def __init__(
        self, preset: StripedHyena2Preset, *, device: str, dtype: torch.dtype, longest: int, rounded: bool = False
    ) -> None:
        self._network = random_network(preset, device=device, dtype=dtype)
        if rounded:
            round_linears(self._network)
        self._longest = longest
        self._engines: dict[int, Engine] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the parameters, rounded ones included."""
        return stored_bytes(self._network)

    def generate(self, prompts: list[str], tokens: int) -> None:
        """Reads the prompts and makes so many tokens for each."""
        results = self._engine(len(prompts)).generate(prompts, GenerationOptions(max_new_tokens=tokens))
        assert all(len(result.ids) == tokens for result in results), "a sequence ended early"

    def score(self, sequences: list[str]) -> None:
        """Scores the sequences side by side."""
        self._engine(1).score(sequences, batch_size=len(sequences))

    def _engine(self, rows: int) -> Engine:
        if rows not in self._engines:
            tokenizer = ByteTokenizer(self._network.vocab_size)
            engine = Engine(self._network, tokenizer, max_running=rows, max_sequence_tokens=self._longest)
            self._engines[rows] = engine
        return self._engines[rows]
