"""Three texts of a training file merged: constants by their values, all else line by line."""

import ast
import math
from collections.abc import Callable, Mapping

from autoresearch_jax.engine.constants import binding, read_constants, same_value, set_constants
from autoresearch_jax.types import Scalar

# base, ours, theirs -> a text with the changes that lead from base to both; None where these touch the same lines
Merge = Callable[[str, str, str], str | None]


def merge_sources(base: str, ours: str, theirs: str, values: Mapping[str, Scalar], merge: Merge) -> str | None:
    """Our text with the changes that lead from `base` to `theirs`; None where both change the same lines.

    Constants that differ are made alike on the three sides, so that a line beside one is no conflict.

    Args:
      base: what both were made from.
      ours: keeps the values of its constants but for `values`.
      theirs: the other one.
      values: new values of constants.
      merge: merges three texts.

    Raises:
      SyntaxError: one of them is not Python.
    """
    sides = [settable_constants(text) for text in (base, ours, theirs)]
    shared = [name for name in sides[1] if all(name in constants for constants in sides)]
    wanted = {name: values.get(name, sides[1][name]) for name in shared}
    differing = [name for name in shared if any(not same_value(side[name], wanted[name]) for side in sides)]
    wanted = {name: wanted[name] for name in differing}
    blank = dict.fromkeys(differing)  # a value that is there already would keep its spelling
    return merge(*(set_constants(set_constants(text, blank), wanted) for text in (base, ours, theirs)))


def moved_constants(before: str, after: str) -> dict[str, Scalar]:
    """Constants of two texts whose values differ, with those of the first.

    Raises:
      SyntaxError: one of them is not Python.
    """
    old, new = settable_constants(before), settable_constants(after)
    return {name: old[name] for name in old if name in new and not same_value(old[name], new[name])}


def settable_constants(source: str) -> dict[str, Scalar]:
    """Top-level constants that `set_constants` can set: bound once, to one value.

    Raises:
      SyntaxError: the source is not Python.
    """
    constants = read_constants(source)
    bound = [name for name, _ in map(binding, ast.parse(source).body) if name is not None]
    return {
        name: value
        for name, value in constants.items()
        if bound.count(name) == 1
        and not isinstance(value, tuple)
        and not (isinstance(value, float) and not math.isfinite(value))
    }
