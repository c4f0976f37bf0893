"""Memory of a growing table: concluded rows do not change, so each is read once and what follows from it made once."""

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from autoresearch_jax.types import Status


class _Row(Protocol):
    @property
    def id(self) -> int: ...

    @property
    def status(self) -> Status | None: ...


Row = TypeVar("Row", bound=_Row)
Value = TypeVar("Value")


class RowCache(Generic[Row]):
    """All rows of a table, of which only those from the first open one on are read again.

    A concluded row is the same object each time, except for those that the present transaction has written.
    """

    def __init__(
        self, read: Callable[[int], Sequence[Row]], may_keep: Callable[[], bool], group: Callable[[Row], Hashable]
    ) -> None:
        """Reads nothing yet.

        Args:
          read: the rows from a number on, in the order of their numbers.
          may_keep: False inside of a transaction, which may yet be undone.
          group: what rows are looked up by; it never changes for a concluded row.
        """
        self._read = read
        self._may_keep = may_keep
        self._group = group
        self._concluded: dict[int, Row] = {}  # by number; no open row comes before any of them
        self._groups: dict[Hashable, list[Row]] = {}
        self._next = 0

    def all(self) -> list[Row]:
        """The rows in the order of their numbers, as they are now."""
        rest = self._rest()
        return [*self._concluded.values(), *rest]

    def of(self, group: Hashable) -> list[Row]:
        """The rows of a group, in the order of their numbers."""
        rest = self._rest()
        return [*self._groups.get(group, ()), *(row for row in rest if self._group(row) == group)]

    def open(self) -> list[Row]:
        """The rows that are not concluded."""
        return [row for row in self._rest() if row.status is None]

    @property
    def num_concluded(self) -> int:
        """How many rows are concluded by now."""
        rest = self._rest()
        return len(self._concluded) + sum(row.status is not None for row in rest)

    def get(self, number: int) -> Row | None:
        """The row of a number; None if there is none."""
        rest = self._rest()
        return self._concluded.get(number) or next((row for row in rest if row.id == number), None)

    def _rest(self) -> Sequence[Row]:
        """Reads the rows that are not kept yet, keeps those before the first open one, and returns the others."""
        rows = self._read(self._next)
        if not self._may_keep():
            return rows
        count = next((index for index, row in enumerate(rows) if row.status is None), len(rows))
        for row in rows[:count]:
            self._concluded[row.id] = row
            self._groups.setdefault(self._group(row), []).append(row)
            self._next = row.id + 1
        return rows[count:]


class Memo(Generic[Row, Value]):
    """What follows from single rows, cached by row identity: to invalidate an entry, pass a new row object."""

    def __init__(self, make: Callable[..., Value]) -> None:
        """Makes nothing yet; `make` takes a row, and what else is given to `of`."""
        self._make = make
        self._made: dict[int, tuple[Row, tuple[Hashable, ...], Value]] = {}

    def of(self, row: Row, *others: Hashable) -> Value:
        """What follows from a row and others; for an open row it is made each time."""
        if row.status is None:
            return self._make(row, *others)
        made = self._made.get(row.id)
        if made is None or made[0] is not row or made[1] != others:
            made = self._made[row.id] = (row, others, self._make(row, *others))
        return made[2]
