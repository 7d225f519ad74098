"""What a StripedHyena 2 carries of a batch of sequences while it reads or writes them."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subquad.modules.errors import InputMismatch
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.paged_key_values import PagedKeyValueState, PageTable, wanted_rows


@dataclasses.dataclass
class StripedHyena2State:
    """The state of every layer for a batch of sequences, each at its own position; all tensors have the batch first.

    ``StripedHyena2.encode`` and ``step`` update it in place, so views made by ``row`` and ``rows`` stay current.

    Attributes:
      position: Tokens already seen by each row, int64; the layers share this tensor.
      layers: One state per block.
      max_length: Tokens per row that the key-value tensors have room for.
    """

    position: Int[Tensor, " batch"]
    layers: list[MixerState]
    max_length: int

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.position.shape[0]

    def row(self, index: int) -> "StripedHyena2State":
        """Returns a one-row view of this state that shares its storage."""
        return self.rows(index, 1)

    def rows(self, start: int, count: int) -> "StripedHyena2State":
        """Returns a view of rows ``start`` to ``start + count - 1`` that shares storage with this state.

        Raises:
          InputMismatch: The rows are not all there.
        """
        if start < 0 or count < 1 or start + count > self.batch_size:
            raise InputMismatch(
                f"rows {start} to {start + count - 1} were asked for; the state has rows 0 to {self.batch_size - 1}"
            )
        position = self.position.narrow(0, start, count)
        layers = [layer.rows(start, count, position) for layer in self.layers]
        return dataclasses.replace(self, position=position, layers=layers)

    def reset(self, rows: Int[Tensor, " rows"] | slice | None = None) -> None:
        """Makes the given rows (all by default) as new: nothing seen. Keys and values are left; they are never read."""
        small = (layer for layer in self.layers if not isinstance(layer, PagedKeyValueState))
        tensors = [self.position, *(tensor for layer in small for tensor in layer.tensors().values())]
        if rows is None or isinstance(rows, slice):
            _zero(tensors if rows is None else [tensor[rows] for tensor in tensors])
            return
        for tensor in tensors:
            tensor.index_fill_(0, rows, 0)  # indexing would send the 0 to the device, and wait for it

    def fill_(self, value: float) -> None:
        """Overwrites all that the rows hold, rings, modal states, keys and values, with one number (for tests)."""
        for layer in self.layers:
            if isinstance(layer, PagedKeyValueState):
                layer.fill_(value)
            else:
                for tensor in layer.tensors().values():
                    tensor.fill_(value)

    def copy_(self, source: "StripedHyena2State") -> None:
        """Takes over the rows of ``source``; a single row is copied to every row.

        Raises:
          InputMismatch: ``source`` has another number of rows than 1 or that of this state, or another ``max_length``.
        """
        if source.batch_size not in (1, self.batch_size) or source.max_length != self.max_length:
            raise InputMismatch(
                f"a state of {source.batch_size} rows with max_length {source.max_length} does not fit into one of "
                f"{self.batch_size} rows with max_length {self.max_length}"
            )
        self.position.copy_(source.position.expand_as(self.position))
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            if isinstance(mine, PagedKeyValueState):
                assert isinstance(theirs, PagedKeyValueState)
                mine.copy_(theirs)
                continue
            for target, value in zip(mine.tensors().values(), theirs.tensors().values(), strict=True):
                target.copy_(value.expand_as(target))

    def take_rows(self, source: "StripedHyena2State", rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Takes over the first rows of ``source``, which hold ``lengths`` tokens, as the given rows of this state.

        Without waiting for a device, unlike ``copy_``.
        """

        def on_device(numbers: Sequence[int]) -> Tensor:
            return torch.tensor(numbers, pin_memory=self.position.is_cuda).to(self.position.device, non_blocking=True)

        count, index = len(rows), on_device(rows)
        places: list[Tensor] | None = None  # of keys and values, the same in every layer
        self.position.index_copy_(0, index, source.position[:count])
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            if isinstance(mine, PagedKeyValueState):
                assert isinstance(theirs, PagedKeyValueState)
                if places is None:
                    held = ((mine.pages, list(rows)), (theirs.pages, list(range(count))))
                    places = [on_device(pages.places(own, lengths)) for pages, own in held]
                for target, value in zip(mine.tensors().values(), theirs.tensors().values(), strict=True):
                    target.index_copy_(0, places[0], value.index_select(0, places[1]).to(target.dtype))
                continue
            for target, value in zip(mine.tensors().values(), theirs.tensors().values(), strict=True):
                target.index_copy_(0, index, value[:count])

    def advance(self, count: int, active: Bool[Tensor, " batch"] | None = None) -> None:
        """Counts ``count`` more tokens for every row, or for the rows where ``active`` is true."""
        if active is None:
            self.position.add_(count)
        else:
            self.position.add_(active, alpha=count)

    @property
    def pages(self) -> PageTable | None:
        """Which pages of the attention layers each row holds; None without such layers."""
        return next((layer.pages for layer in self.layers if isinstance(layer, PagedKeyValueState)), None)

    def require_room(
        self,
        batch_size: int,
        length: int,
        active: Bool[Tensor, " batch"] | None = None,
        *,
        starts: list[int] | None = None,
    ) -> list[int] | None:
        """Refuses an input that does not fit, before any of the state is touched.

        Without ``starts``, the position of each row as the caller knows it, it waits for the device.

        Returns:
          The position of each row where attention layers had to know it, for their use.

        Raises:
          InputMismatch: ``batch_size`` is not that of the state.
          StateCapacityExceeded: A row would grow past ``max_length``, or past the pages that it holds, although the
            network has attention layers.
        """
        if batch_size != self.batch_size:
            raise InputMismatch(f"ids have {batch_size} rows, the state has {self.batch_size}; they must agree")
        paged = next((layer for layer in self.layers if isinstance(layer, PagedKeyValueState)), None)
        if paged is None:
            return starts
        if starts is None:
            starts = self.position.tolist()
        paged.require_room(starts, length, wanted_rows(batch_size, active))
        return starts

    def hold_pages(self, row: int, pages: Sequence[int]) -> None:
        """Gives a row of a state that was made with ``page_count`` these pages in every attention layer."""
        if self.pages is not None:
            self.pages.assign(row, pages)

    @property
    def recurrent_nbytes(self) -> int:
        """Bytes of the states that do not grow with the sequence: rings and modal states."""
        return sum(layer.nbytes for layer in self.layers if not isinstance(layer, PagedKeyValueState))

    @property
    def key_value_nbytes(self) -> int:
        """Bytes of the keys and values, with room for ``max_length`` tokens per row."""
        return sum(layer.nbytes for layer in self.layers if isinstance(layer, PagedKeyValueState))

    @property
    def nbytes(self) -> int:
        """Bytes of everything: layers and positions."""
        return self.recurrent_nbytes + self.key_value_nbytes + self.position.numel() * self.position.element_size()


def shared_position(layers: list[MixerState]) -> Int[Tensor, " batch"]:
    """Makes all layers use the position of the first and the pages of the first of attention; returns the position."""
    position = layers[0].position
    pages = next((layer.pages for layer in layers if isinstance(layer, PagedKeyValueState)), None)
    for layer in layers:
        layer.position = position
        if isinstance(layer, PagedKeyValueState):
            assert pages is not None
            layer.pages = pages
    return position


def _zero(tensors: list[Tensor]) -> None:
    """Fills tensors with zeros, on a GPU by one kernel for many of a type."""
    of_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        of_type.setdefault(tensor.dtype, []).append(tensor)
    for group in of_type.values():
        torch._foreach_zero_(group)  # pyright: ignore[reportPrivateImportUsage]
