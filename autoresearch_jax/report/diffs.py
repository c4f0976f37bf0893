"""Two versions of a text side by side, for people."""

import difflib
from dataclasses import dataclass
from itertools import zip_longest

CONTEXT = 3  # unchanged lines around a change
MOST_ROWS = 400  # of one diff; git has the rest


@dataclass(frozen=True)
class DiffRow:
    """A line of the old text beside one of the new; None where there is none. Numbers count from 1.

    `is_gap` is true of a row that stands for unchanged lines that are left out.
    """

    old_number: int | None = None
    old: str | None = None
    new_number: int | None = None
    new: str | None = None
    is_gap: bool = False

    @property
    def is_changed(self) -> bool:
        """Whether the two lines differ."""
        return not self.is_gap and self.old != self.new


@dataclass(frozen=True)
class Diff:
    """What differs between two texts.

    Attributes:
      added, removed: lines.
      left_out: rows beyond `MOST_ROWS`.
    """

    rows: tuple[DiffRow, ...]
    added: int
    removed: int
    left_out: int


def compare(before: str, after: str) -> Diff:
    """The changed lines of two texts with `CONTEXT` lines around them."""
    old, new = before.splitlines(), after.splitlines()
    rows: list[DiffRow] = []
    added = removed = 0
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(CONTEXT):
        if rows:
            rows.append(DiffRow(is_gap=True))
        for kind, old_first, old_end, new_first, new_end in group:
            lefts = list(enumerate(old[old_first:old_end], old_first + 1))
            rights = list(enumerate(new[new_first:new_end], new_first + 1))
            if kind != "equal":
                removed += len(lefts)
                added += len(rights)
            for left, right in zip_longest(lefts, rights, fillvalue=(None, None)):
                rows.append(DiffRow(left[0], left[1], right[0], right[1]))
    return Diff(tuple(rows[:MOST_ROWS]), added, removed, max(0, len(rows) - MOST_ROWS))


def unified(before: str, after: str, name: str) -> str:
    """The same as `diff -u` has it."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm="")
    return "\n".join(lines)
