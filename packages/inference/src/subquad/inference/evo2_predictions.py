"""The prediction files of ``predict_evo2``: dictionaries of tensors, one a batch or one for all."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from subquad.inference.embedding import resolve_layer
from subquad.inference.engine import Engine
from subquad.inference.sequence_files import Record
from subquad.inference.writing import writing

Kind = Literal["logits", "sum", "mean", "per_token"]
NAME = "predictions__rank_0__dp_rank_0"
INDEX = "seq_idx_map.json"
_PADDING = {"tokens": 1}


class Predictor:
    """Makes the tensors of one batch.

    Args:
      engine: The engine.
      kind: ``"logits"``, or how log-probabilities are collapsed.
      embedding_layer: Hidden states after this block instead.
      prepend_bos: Read the end-of-document token first; it is a position of the result.
      min_length: Width of a batch at least, without that token.

    Raises:
      InvalidOption: There is no such block.
    """

    def __init__(
        self, engine: Engine, kind: Kind, *, embedding_layer: int | None, prepend_bos: bool, min_length: int
    ) -> None:
        if embedding_layer is not None:
            resolve_layer(f"blocks.{embedding_layer}", engine.model)
        self._engine, self._kind, self._layer = engine, kind, embedding_layer
        self._prefix = [engine.tokenizer.eod_id] if prepend_bos else []
        self._min_length = min_length + len(self._prefix)

    def batch(self, records: Sequence[tuple[int, Record]]) -> dict[str, Tensor]:
        """Returns the tensors of a batch of numbered records, on the CPU.

        ``token_logits [batch, length, vocabulary]`` or ``hidden_embeddings [batch, length, channel]`` with
        ``pad_mask`` (True at tokens of the sequence) and ``tokens``, or ``log_probs_seqs``, ``[batch]`` or for each
        scored token ``[batch, length]`` with its ``pad_mask``; and ``seq_idx [batch]`` always.
        """
        names = [f"record {record.id!r}" for _, record in records]
        rows = [self._prefix + self._engine.tokenizer.encode(record.sequence) for _, record in records]
        index = torch.tensor([number for number, _ in records])
        if self._layer is None and self._kind != "logits":
            scores = self._engine.score_details(rows, keep_logprobs=True, batch_size=len(rows), names=names)
            if self._kind == "per_token":
                values = _stacked([torch.tensor(score.logprobs) for score in scores], self._min_length - 1)
                counts = torch.tensor([score.scored_tokens for score in scores])
                mask = torch.arange(values.shape[1]) < counts[:, None]
                return {"log_probs_seqs": values, "pad_mask": mask, "seq_idx": index}
            sums = [score.log_likelihood if self._kind == "sum" else score.mean for score in scores]
            return {"log_probs_seqs": torch.tensor(sums), "seq_idx": index}
        tokens = _stacked([torch.tensor(row) for row in rows], self._min_length, 1)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        common = {"pad_mask": mask, "seq_idx": index, "tokens": tokens}
        if self._layer is None:
            return {"token_logits": self._engine.forward(tokens).cpu(), **common}
        layer = f"blocks.{self._layer}"
        found = self._engine.embed(rows, [layer], pooling="none", batch_size=len(rows), names=names)
        return {"hidden_embeddings": _stacked([each[layer] for each in found], tokens.shape[1]), **common}


class PredictionFiles:
    """Writes batches, each to a file of its own or all to one; a file appears when it is complete.

    Args:
      folder: Where they go.
      by_batch: One file a batch.
      per_folder: So many files go into each of the folders ``subdir_0``, ``subdir_1``, …; None for no such folders.
    """

    def __init__(self, folder: Path, *, by_batch: bool, per_folder: int | None) -> None:
        self._folder, self._by_batch, self._per_folder = folder, by_batch, per_folder
        self._count = 0
        self._kept: list[dict[str, Tensor]] = []

    def add(self, batch: dict[str, Tensor]) -> None:
        """Writes or keeps a batch."""
        if not self._by_batch:
            self._kept.append(batch)
            return
        folder = self._folder
        if self._per_folder is not None:
            folder = folder / f"subdir_{self._count // self._per_folder}"
            folder.mkdir(exist_ok=True)
        _save(batch, folder / f"{NAME}__batch_{self._count}.pt")
        self._count += 1

    def finish(self) -> None:
        """Writes what was kept, padded to one width."""
        if self._by_batch:
            return
        whole = {}
        for name in self._kept[0]:
            parts = [batch[name] for batch in self._kept]
            if parts[0].dim() > 1:
                width = max(part.shape[1] for part in parts)
                parts = [_widened(part, width, _PADDING.get(name, 0)) for part in parts]
            whole[name] = torch.cat(parts)
        _save(whole, self._folder / f"{NAME}.pt")


def earlier_predictions(folder: Path) -> list[Path]:
    """Returns what an earlier run has written to a folder: files of predictions, and which index is whose."""
    found = [*folder.glob(f"{NAME}*.pt"), *folder.glob(f"subdir_*/{NAME}*.pt"), *folder.glob(INDEX)]
    return sorted(found)


def half_done_predictions(folder: Path) -> list[Path]:
    """Returns what a killed run has left in a folder."""
    return [path for start in ("", "subdir_*/") for path in folder.glob(f"{start}.{NAME}*.pt.partial")]


def _save(batch: dict[str, Tensor], path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            with partial.open("wb") as file:
                _save_to(batch, file)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _save_to(batch: dict[str, Tensor], file: BinaryIO) -> None:
    """Saves a batch; torch hides what the operating system says of a file behind an error of its own."""
    try:
        torch.save(batch, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _widened(values: Tensor, width: int, filling: int) -> Tensor:
    """Pads axis 1 on the right."""
    missing = width - values.shape[1]
    return pad(values, (0, 0) * (values.dim() - 2) + (0, missing), value=filling)


def _stacked(rows: Sequence[Tensor], at_least: int, filling: int = 0) -> Tensor:
    """Stacks rows of different lengths, padded on the right."""
    width = max(at_least, *(row.shape[0] for row in rows))
    return torch.cat([_widened(row[None], width, filling) for row in rows])
