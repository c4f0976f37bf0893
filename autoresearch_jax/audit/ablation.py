"""The champion without one of its kept changes, as a text."""

import ast
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.engine.training_file import (
    Merge,
    blank_values,
    merge_sources,
    moved_constants,
    same_value,
    set_constants,
    settable_constants,
)
from autoresearch_jax.types import Scalar

SUPERSEDED = "superseded"
CONFLICT = "cannot be reverted"


@dataclass(frozen=True)
class Version:
    """The text of a champion.

    Attributes:
      experiment: that was kept.
      source: its text.
    """

    experiment: int
    source: str


@dataclass(frozen=True)
class Reverted:
    """The champion without one change.

    Attributes:
      experiment: that made the change.
      source: the text; None if there is none.
      obstacle: why there is none, `SUPERSEDED` or `CONFLICT`; else empty.
      note: what else is to be said, one line; may be empty.
    """

    experiment: int
    source: str | None
    obstacle: str = ""
    note: str = ""


def revert(versions: Sequence[Version], index: int, merge: Merge) -> Reverted:
    """Takes one change back out of the last version and leaves all others in.

    Constants are set back to their values of before, unless a later change moved them again. The rest of the text is
    merged line by line, with all constants alike on the three sides, so that a line beside one is no conflict.

    Args:
      versions: the baseline and every champion after it, each made from the one before.
      index: of the version that brought the change; at least 1.
      merge: merges three texts.
    """
    number, champion = versions[index].experiment, versions[-1].source
    before, after = versions[index - 1].source, versions[index].source
    old = moved_constants(before, after)
    again = {name: moved_by for name in old if (moved_by := _moved_again(versions[index:], name)) is not None}
    values = {name: value for name, value in old.items() if name not in again}
    note = _superseded_note(again)
    if _is_same_apart_from(before, after, old):
        if not values:
            return Reverted(number, None, SUPERSEDED, note)
        return Reverted(number, set_constants(champion, values), note=note)
    merged = merge_sources(after, champion, before, values, merge)
    if merged is None:
        return Reverted(number, None, CONFLICT, "later changes touch the same lines")
    return Reverted(number, merged, note=note)


def _moved_again(versions: Sequence[Version], name: str) -> int | None:
    """The last experiment after the first version that gave a constant another value or took it away."""
    moved_by = None
    for earlier, later in itertools.pairwise(versions):
        old, new = settable_constants(earlier.source), settable_constants(later.source)
        if name in old and not (name in new and same_value(old[name], new[name])):
            moved_by = later.experiment
    return moved_by


def _superseded_note(again: Mapping[str, int]) -> str:
    return ", ".join(f"{name} was moved again by {experiment}" for name, experiment in again.items())


def _is_same_apart_from(before: str, after: str, names: Mapping[str, Scalar]) -> bool:
    """True if two texts differ in the values of these constants alone; comments do not count."""
    return bool(names) and _tree_without(before, names) == _tree_without(after, names)


def _tree_without(source: str, names: Mapping[str, Scalar]) -> str:
    tree = ast.parse(source)
    blank_values(tree, names)
    return ast.dump(tree)
