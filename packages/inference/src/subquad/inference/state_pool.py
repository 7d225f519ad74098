"""State rows and pages, handed out and taken back: all that a request will need, when it is admitted."""

from subquad.inference.network import PAGE_TOKENS, Network, RecurrentState


def pages_for(tokens: int) -> int:
    """Returns how many pages hold the keys and values of a sequence."""
    return -(-tokens // PAGE_TOKENS)


class StatePool:
    """Owns one state of ``slots`` rows and a number of pages; a request holds both from its admission to its end.

    Rows have a fixed size. Pages hold what grows with a sequence, so that a pool of pages takes the memory of the
    tokens in it, not of the longest sequence that may come.

    Args:
      network: Makes the state.
      slots: Number of rows; also the fixed batch size of every decode step.
      max_length: Tokens that one row can hold.
      page_count: Pages for all rows together; default: enough for ``max_length`` tokens in each.
      poison_freed: Fill freed rows and pages with NaN, so that a test sees whoever reads one.
    """

    def __init__(
        self,
        network: Network,
        slots: int,
        max_length: int,
        *,
        page_count: int | None = None,
        poison_freed: bool = False,
    ) -> None:
        self.slots = slots
        self.max_length = max_length
        self.page_count = slots * pages_for(max_length) if page_count is None else page_count
        longest = min(max_length, self.page_count * PAGE_TOKENS)
        self.state = network.init_state(slots, max_length=longest, page_count=self.page_count)
        self._free = list(range(slots))
        self._free_pages = list(range(self.page_count))
        self._pages: dict[int, list[int]] = {}
        self._views: dict[int, RecurrentState] = {}
        self._poison = poison_freed
        if poison_freed:
            for slot, page in zip(range(slots), range(self.page_count), strict=False):
                self.state.hold_pages(slot, [page])
            self._fill(range(slots), float("nan"))

    @property
    def free(self) -> int:
        """Number of rows that nobody holds."""
        return len(self._free)

    @property
    def free_pages(self) -> int:
        """Number of pages that nobody holds."""
        return len(self._free_pages)

    def acquire(self, count: int, tokens: int | None = None) -> list[int] | None:
        """Returns ``count`` empty rows with room for ``tokens`` tokens each (default: all that a row can hold).

        None when there are not so many free rows or pages.
        """
        pages = pages_for(self.max_length if tokens is None else tokens)
        if count > len(self._free) or count * pages > len(self._free_pages):
            return None
        rows, self._free = self._free[:count], self._free[count:]
        for row in rows:
            self._pages[row] = self._take_pages(pages)
            self.state.hold_pages(row, self._pages[row])
        self.reset(rows)
        return rows

    def release(self, rows: list[int]) -> None:
        """Takes rows and their pages back."""
        twice = set(rows) & set(self._free)
        assert not twice, f"rows {sorted(twice)} were released twice"
        if self._poison:
            self._fill(rows, float("nan"))
        for row in rows:
            self._free_pages += self._pages.pop(row)
        self._free_pages.sort()
        self._free = sorted([*self._free, *rows])  # the first rows are those whose views exist

    def row(self, slot: int) -> RecurrentState:
        """Returns one row as a batch of one that shares its storage."""
        if slot not in self._views:
            self._views[slot] = self.state.row(slot)
        return self._views[slot]

    def reset(self, rows: list[int]) -> None:
        """Sets rows to the state before the first token."""
        if self._poison:
            self._fill(rows, 0.0)
        for row in rows:
            self.row(row).reset()

    def copy(self, source: int, targets: list[int]) -> None:
        """Copies the state of one row over others."""
        for target in targets:
            self.row(target).copy_(self.row(source))

    def _take_pages(self, count: int) -> list[int]:
        """Takes free pages: a run of neighbours where there is one, for runs are read without a copy."""
        free, start = self._free_pages, 0
        for index in range(len(free) - count + 1):
            if free[index + count - 1] - free[index] == count - 1:
                start = index
                break
        taken = free[start : start + count]
        del free[start : start + count]
        return taken

    def _fill(self, rows: range | list[int], value: float) -> None:
        for slot in rows:
            self.row(slot).fill_(value)
