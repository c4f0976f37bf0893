"""Front matter of a page: YAML whose values are texts, each read with its line, which counts from 1 on the page."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from autoresearch_jax.sanitize import clean_line

MAX_VALUE_CHARACTERS = 500
NewError = Callable[[int, str], Exception]  # of a line, and what is wrong there


def compose(text: str, error: NewError) -> Any:
    """The nodes of the lines between the marks; without constructors, so that `no`, dates and digits stay texts."""
    import yaml  # takes 30 ms, which commands that read no finding do not spend

    try:
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as fault:
        line = 1 if fault.problem_mark is None else fault.problem_mark.line + 2
        raise error(line, f"the front matter is no YAML: {fault.problem}") from fault
    except (yaml.YAMLError, RecursionError, ValueError) as fault:
        raise error(1, f"the front matter is no YAML: {fault}") from fault


def read_mapping(node: Any, known: Sequence[str], error: NewError) -> dict[str, tuple[int, Any]]:
    """The values of a mapping, each with its line; keys that are not known or come twice are errors."""
    if getattr(node, "id", None) != "mapping":
        raise error(2 if node is None else line_of(node), "expected lines of the form `key: value`")
    found: dict[str, tuple[int, Any]] = {}
    for key, value in node.value:
        word = clean_line(key.value, 40) if key.id == "scalar" else "?"  # lists of aliases print without end
        if word not in known:
            raise error(line_of(key), f"{word}: unknown key, perhaps of a later format; {', '.join(known)}")
        if word in found:
            raise error(line_of(key), f"{word}: stands there twice")
        found[word] = line_of(key), value
    return found


def read_text(name: str, place: tuple[int, Any], error: NewError, limit: int = MAX_VALUE_CHARACTERS) -> str:
    """A value that is one line of text, cleaned."""
    line, node = place
    text = clean_line(node.value, limit) if node.id == "scalar" else ""
    if not text:
        raise error(line, f"{name}: expected one line of text")
    return text


def line_of(node: Any) -> int:
    """The line of a node of the front matter, which begins on the page's second line."""
    return int(node.start_mark.line) + 2


def as_number(word: str) -> float:
    """A finite number. Raises ValueError, whose text says what it is instead."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("no number")
    return value


def as_share(word: str) -> float:
    """A number between 0 and 1. Raises ValueError, whose text says what it is instead."""
    if not 0 <= (value := as_number(word)) <= 1:
        raise ValueError("not between 0 and 1")
    return value


def as_whole(word: str) -> int:
    """A whole number that is not negative. Raises ValueError, whose text says what it is instead."""
    if word.isascii() and word.isdigit():
        return int(word)  # exactly: a float has too few digits for a seed
    if not (value := as_number(word)).is_integer() or value < 0:
        raise ValueError("no whole number")
    return int(value)


def as_truth(word: str) -> bool:
    """`true` or `false`. Raises ValueError, whose text says what it is instead."""
    if word not in ("true", "false"):
        raise ValueError("neither true nor false")
    return word == "true"
