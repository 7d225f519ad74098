"""Keys and values in pages: rows of very different lengths share one pool, each holding only the pages it needs."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subquad.modules.errors import StateCapacityExceeded
from subquad.modules.mixer import MixerState
from subquad.modules.widths import require_active

PAGE_SIZE = 256


@dataclasses.dataclass
class PageTable:
    """Which pages of a pool each row holds: token ``t`` of a row lies in the row's page ``t // size``.

    The attention layers of a network share one table; each has a pool of its own with the same page numbers.

    Attributes:
      numbers: ``[batch, page]`` int32 on the device of the pool; 0 where a row holds no page.
      held: The same on the host, without the padding.
      size: Tokens in a page.
    """

    numbers: Int[Tensor, "batch page"]
    held: list[list[int]]
    size: int

    def assign(self, row: int, pages: Sequence[int]) -> None:
        """Gives a row these pages, in token order, in place of those it had."""
        if self.held[row] == list(pages):
            return
        self.held[row][:] = pages
        padded = [*pages, *[0] * (self.numbers.shape[1] - len(pages))]
        numbers = torch.tensor(padded, dtype=torch.int32, pin_memory=self.numbers.is_cuda)
        self.numbers[row].copy_(numbers, non_blocking=True)  # from other memory the copy would be made twice

    def room(self, row: int) -> int:
        """Tokens that fit into the pages of a row."""
        return len(self.held[row]) * self.size

    def slots(self, row: int, start: int, stop: int) -> slice | Int[Tensor, " token"]:
        """Returns where tokens ``start`` to ``stop - 1`` of a row lie in the pool: a slice where that is one run."""
        first = start // self.size
        pages = self.held[row][first : -(-stop // self.size)]
        if pages == list(range(pages[0], pages[0] + len(pages))):
            shift = (pages[0] - first) * self.size
            return slice(start + shift, stop + shift)
        token = torch.arange(start, stop, device=self.numbers.device)
        return self.numbers[row, token // self.size].long() * self.size + token % self.size

    def places(self, rows: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Returns where the first ``lengths`` tokens of some rows lie in the pool, row after row."""
        size = self.size
        return [
            self.held[row][t // size] * size + t % size
            for row, length in zip(rows, lengths, strict=True)
            for t in range(length)
        ]

    def rows(self, start: int, count: int) -> "PageTable":
        """Returns a view of some rows that shares everything with this table."""
        return PageTable(self.numbers.narrow(0, start, count), self.held[start : start + count], self.size)


@dataclasses.dataclass
class PagedKeyValueState(MixerState):
    """Rotated keys and values of the tokens seen so far; slots past a row's ``position`` are never read.

    Attributes:
      keys: ``[slot, head, size]``; page ``p`` is slots ``p * pages.size`` to ``(p + 1) * pages.size - 1``.
      values: ``[slot, head, size]``.
      pages: Which pages each row holds.
    """

    keys: Float[Tensor, "slot head size"]
    values: Float[Tensor, "slot head size"]
    pages: PageTable

    def tensors(self) -> dict[str, Tensor]:
        """Returns the pool, ``[slot, head, size]`` each, which all rows share."""
        return {"keys": self.keys, "values": self.values}

    def append(
        self, row: int, start: int, keys: Float[Tensor, "token head size"], values: Float[Tensor, "token head size"]
    ) -> None:
        """Stores rotated keys and values as tokens ``start`` onwards of a row."""
        slots = self.pages.slots(row, start, start + keys.shape[0])
        self.keys[slots] = keys.to(self.keys.dtype)
        self.values[slots] = values.to(self.values.dtype)

    def read(self, row: int, length: int) -> tuple[Float[Tensor, "token head size"], Float[Tensor, "token head size"]]:
        """Returns keys and values of a row's first ``length`` tokens: views where the pages lie in one run."""
        slots = self.pages.slots(row, 0, length)
        return self.keys[slots], self.values[slots]

    def rows(self, start: int, count: int, position: Int[Tensor, " rows"] | None = None) -> "PagedKeyValueState":
        """Returns a view of ``count`` rows that shares storage with this state."""
        position = self.position.narrow(0, start, count) if position is None else position
        return dataclasses.replace(self, position=position, pages=self.pages.rows(start, count))

    def reset(self, rows: Int[Tensor, " rows"] | slice | None = None) -> None:
        """Makes the given rows (all by default) as new; keys and values are left, for they will not be read."""
        self.position[slice(None) if rows is None else rows] = 0

    def copy_(self, source: "PagedKeyValueState") -> None:
        """Takes over the tokens of ``source``; those of a single row are copied to every row."""
        lengths = source.position.tolist()
        for row in range(len(self.pages.held)):
            origin = row if len(lengths) > 1 else 0
            if lengths[origin]:
                self.append(row, 0, *source.read(origin, lengths[origin]))

    def fill_(self, value: float) -> None:
        """Overwrites every page that the rows hold with one number."""
        for row in range(len(self.pages.held)):
            if self.pages.held[row]:
                slots = self.pages.slots(row, 0, self.pages.room(row))
                self.keys[slots] = value
                self.values[slots] = value

    def require_room(self, starts: list[int], length: int, wanted: list[bool]) -> None:
        """Refuses to write past the pages that a row holds.

        Raises:
          StateCapacityExceeded: A wanted row would hold more tokens than fit into its pages.
        """
        for row, (start, is_wanted) in enumerate(zip(starts, wanted, strict=True)):
            if is_wanted and start + length > self.pages.room(row):
                raise StateCapacityExceeded(
                    f"row {row} holds {start} tokens and gets {length} more; its max_length is {self.pages.room(row)}"
                )


def paged_state(
    batch_size: int,
    *,
    max_length: int,
    heads: tuple[int, int],
    page_count: int | None,
    device: torch.device | str,
    dtype: torch.dtype,
) -> PagedKeyValueState:
    """Makes an empty state.

    Args:
      batch_size: Number of rows.
      max_length: Tokens that a row may come to hold.
      heads: Number of heads and size of a head.
      page_count: Pages of ``PAGE_SIZE`` tokens in the pool, none of them assigned; None gives every row one page of
        exactly ``max_length`` tokens.
      device: Where.
      dtype: Type of keys and values.
    """
    if page_count is None:
        size, width, count = max(max_length, 1), 1, batch_size
    else:
        size, width, count = PAGE_SIZE, max(-(-max_length // PAGE_SIZE), 1), page_count
    numbers = torch.zeros(batch_size, width, dtype=torch.int32, device=device)
    table = PageTable(numbers, [[] for _ in range(batch_size)], size)
    if page_count is None:
        numbers.copy_(torch.arange(batch_size, dtype=torch.int32, device=device)[:, None])
        table.held = [[row] for row in range(batch_size)]
    shape = (count * size, *heads)
    return PagedKeyValueState(
        position=torch.zeros(batch_size, dtype=torch.int64, device=device),
        keys=torch.zeros(shape, device=device, dtype=dtype),
        values=torch.zeros(shape, device=device, dtype=dtype),
        pages=table,
    )


def wanted_rows(batch_size: int, active: Bool[Tensor, " batch"] | None) -> list[bool]:
    """Returns on the host which rows are meant.

    Raises:
      InputMismatch: ``active`` is no bool of every row.
    """
    require_active(active, batch_size)
    return [True] * batch_size if active is None else active.tolist()
