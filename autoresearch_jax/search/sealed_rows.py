"""Rows of a growing table that are read once: what is concluded does not change any more."""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from autoresearch_jax.measurement import Status


class _Row(Protocol):
    @property
    def id(self) -> int: ...

    @property
    def status(self) -> Status | None: ...


Row = TypeVar("Row", bound=_Row)


class SealedRows(Generic[Row]):
    """All rows of a table, of which only those from the first open one on are read again."""

    def __init__(self, read: Callable[[int], Sequence[Row]], may_keep: Callable[[], bool]) -> None:
        """Nothing is read before it is asked for.

        Args:
          read: the rows from a number on, in the order of their numbers.
          may_keep: False inside of a transaction, which may yet be undone.
        """
        self._read = read
        self._may_keep = may_keep
        self._concluded: list[Row] = []

    def all(self) -> list[Row]:
        """The rows in the order of their numbers, as they are now."""
        first = self._concluded[-1].id + 1 if self._concluded else 0
        rows = self._read(first)
        open_rows = [index for index, row in enumerate(rows) if row.status is None]
        num_concluded = open_rows[0] if open_rows else len(rows)
        found = [*self._concluded, *rows]
        if self._may_keep():
            self._concluded += rows[:num_concluded]
        return found
