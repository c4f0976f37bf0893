"""Texts of one kind against each other: which constants moved, three-way merges, a change moved to another champion."""

from collections import Counter
from collections.abc import Collection, Mapping

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError, ConstantValue, same_value
from autoresearch_jax.errors import UserError
from autoresearch_jax.types import Merge, Scalar


def known_constants(kind: AssetKind, text: str) -> dict[str, ConstantValue]:
    """As `AssetKind.constants`; none of a text that does not parse."""
    try:
        return kind.constants(text)
    except AssetSyntaxError:
        return {}


def settable_names(kind: AssetKind, text: str) -> Collection[str]:
    """Constants that can be set in a text; none in one that does not parse."""
    try:
        return kind.settable(text).keys()
    except AssetSyntaxError:
        return ()


def moved_constants(kind: AssetKind, before: str, after: str) -> dict[str, Scalar]:
    """Constants of two texts whose values differ, with those of the first.

    Raises:
      AssetSyntaxError: one of them does not parse.
    """
    old, new = kind.settable(before), kind.settable(after)
    return {name: old[name] for name in old if name in new and not same_value(old[name], new[name])}


def is_same_apart_from(kind: AssetKind, before: str, after: str, names: Collection[str]) -> bool:
    """True if two texts differ in the values of these constants alone; comments do not count."""
    return bool(names) and kind.tree(before, names) == kind.tree(after, names)


def merge_texts(
    kind: AssetKind, base: str, ours: str, theirs: str, values: Mapping[str, Scalar], merge: Merge
) -> str | None:
    """Our text with the changes that lead from `base` to `theirs`; None where both change the same lines.

    Constants that differ are made alike on the three sides, so that a line beside one is no conflict.

    Ours keeps the values of its constants but for `values`.

    Raises:
      AssetSyntaxError: one of them does not parse.
    """
    sides = [kind.settable(text) for text in (base, ours, theirs)]
    shared = [name for name in sides[1] if all(name in constants for constants in sides)]
    wanted = {name: values.get(name, sides[1][name]) for name in shared}
    differing = [name for name in shared if any(not same_value(side[name], wanted[name]) for side in sides)]
    wanted = {name: wanted[name] for name in differing}
    return merge(*(kind.set_constants(text, wanted, anew=True) for text in (base, ours, theirs)))


def is_same_difference(before: str, after: str, others: tuple[str, str]) -> bool:
    """Whether as much changes between two texts as between two others: the same lines go, and the same come."""

    def changes(first: str, second: str) -> tuple[Counter[str], Counter[str]]:
        old, new = Counter(first.splitlines()), Counter(second.splitlines())
        return old - new, new - old

    return changes(before, after) == changes(*others)


def rebase_text(kind: AssetKind, text: str, base: str, champion: str, merge: Merge) -> str | None:
    """A change of one champion's text as a change of another's; None if it is stale.

    All of it is moved or nothing, so that it does what its hypothesis says: a constant that both gave another value
    makes it stale, as lines do that both changed.

    Args:
      text: the changed text.
      base: the text that it is a change of.
      champion: the text to change.
    """
    if base == champion:
        return text
    moved = _moved_text(kind, text, base, champion, merge)
    return None if moved == champion else moved


def adds_nothing(kind: AssetKind, text: str, base: str, champion: str, merge: Merge) -> bool:
    """Whether a change that `rebase_text` finds stale is in the champion already; else both change the same lines."""
    return _moved_text(kind, text, base, champion, merge) == champion


def _moved_text(kind: AssetKind, text: str, base: str, champion: str, merge: Merge) -> str | None:
    """See `rebase_text`; the champion's text itself where it is the same but for comments and layout."""
    try:
        ours, theirs = moved_constants(kind, champion, base), moved_constants(kind, text, base)
        if any(name in ours and not same_value(ours[name], theirs[name]) for name in theirs):
            return None
        merged = merge_texts(kind, base, champion, text, theirs, merge)
        return champion if merged is not None and kind.tree(merged) == kind.tree(champion) else merged
    except (ValueError, RecursionError, MemoryError, UserError):
        return None  # it does not parse; a line that no constant can be set in; a text that git takes for none
