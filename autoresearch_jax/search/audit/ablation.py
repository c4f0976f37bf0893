"""The champion without one of its kept changes, as a text."""

import ast
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.measurement import Scalar
from autoresearch_jax.search.constants import binding, blank_values, read_constants, same_value, set_constants

# base, ours, theirs -> a text with the changes that lead from base to both; None where these touch the same lines
Merge = Callable[[str, str, str], str | None]

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
    old = _moved(before, after)
    again = {name: moved_by for name in old if (moved_by := _moved_again(versions[index:], name)) is not None}
    values = {name: value for name, value in old.items() if name not in again}
    note = _superseded_note(again)
    if _is_same_apart_from(before, after, old):
        if not values:
            return Reverted(number, None, SUPERSEDED, note)
        return Reverted(number, set_constants(champion, values), note=note)
    base, ours, theirs = _with_equal_constants((after, champion, before), values)
    merged = merge(base, ours, theirs)
    if merged is None:
        return Reverted(number, None, CONFLICT, "later changes touch the same lines")
    return Reverted(number, merged, note=note)


def _moved(before: str, after: str) -> dict[str, Scalar]:
    """Constants of two texts whose values differ, with those of the first."""
    old, new = _settable(before), _settable(after)
    return {name: old[name] for name in old if name in new and not same_value(old[name], new[name])}


def _moved_again(versions: Sequence[Version], name: str) -> int | None:
    """The last experiment after the first version that gave a constant another value or took it away."""
    moved_by = None
    for earlier, later in itertools.pairwise(versions):
        old, new = _settable(earlier.source), _settable(later.source)
        if name in old and not (name in new and same_value(old[name], new[name])):
            moved_by = later.experiment
    return moved_by


def _superseded_note(again: Mapping[str, int]) -> str:
    return ", ".join(f"{name} was moved again by {experiment}" for name, experiment in again.items())


def _settable(source: str) -> dict[str, Scalar]:
    """Top-level constants that `set_constants` can set: bound once, to one value."""
    bound = [name for name, _ in map(binding, ast.parse(source).body) if name is not None]
    return {
        name: value
        for name, value in read_constants(source).items()
        if bound.count(name) == 1
        and not isinstance(value, tuple)
        and not (isinstance(value, float) and not math.isfinite(value))
    }


def _is_same_apart_from(before: str, after: str, names: Mapping[str, Scalar]) -> bool:
    """True if two texts differ in the values of these constants alone; comments do not count."""
    return bool(names) and _tree_without(before, names) == _tree_without(after, names)


def _tree_without(source: str, names: Mapping[str, Scalar]) -> str:
    tree = ast.parse(source)
    blank_values(tree, names)
    return ast.dump(tree)


def _with_equal_constants(texts: tuple[str, str, str], values: Mapping[str, Scalar]) -> list[str]:
    """Three texts with one value, in one spelling, for each constant that all of them have.

    Args:
      texts: the second is the champion, which keeps its values but for `values`.
      values: new ones.
    """
    settable = [_settable(text) for text in texts]
    shared = [name for name in settable[1] if all(name in constants for constants in settable)]
    wanted = {name: values.get(name, settable[1][name]) for name in shared}
    blank = dict.fromkeys(shared)  # a value that is there already would keep its spelling
    return [set_constants(set_constants(text, blank), wanted) for text in texts]
