"""Where in a source a search block stands: exactly, but for whitespace, indented otherwise, or all but misspelt.

A place is taken only where there is no second one. The time is linear in the source, and in the pairs of equal
lines of source and block, of which there are at most `MAX_PAIRS`.
"""

import re
from collections import Counter
from enum import Enum

from autoresearch_jax.proposers.edit_lines import (
    TAB_COLUMNS,
    Source,
    canonical,
    columns_of,
    indentation,
    misspelt_names,
    ratio,
)

CLOSE_RATIO = 0.65  # share of a block's lines that must stand there: of three lines one may be misspelt, of two none
CLOSE_MARGIN = 0.3  # by so much of its lines the best place must beat every other
MAX_PLACES = 100  # places of an ambiguous block that are looked for
MAX_HITS = 2000  # of which most may lie inside of words; a text with more of them is ambiguous without a closer look
MAX_PAIRS = 500_000  # equal lines of block and source that are paired to find a close place: half a second
MAX_COMPARED = 50  # lines that difflib compares to find the nearest

# Two characters that may belong to one token, escape or run of blanks: a place neither begins nor ends between them.
_JOINED = re.compile(r"""\w\w|[ \t]{2}|\d\.|\.\d|\w["']|""|''|\\.|[=!<>+\-*/%&|^@:]=|->|<<|>>|\*\*|//""")


class Rung(Enum):
    """How an edit was placed; the later, the more was forgiven."""

    EXACT = "exact"
    WHITESPACE = "whitespace"
    INDENTATION = "indentation"
    CLOSE = "close"


class Reason(Enum):
    """Why an edit is refused."""

    EMPTY = "empty search"
    SAME = "search equals replace"
    MISSED = "missed"
    AMBIGUOUS = "ambiguous"
    UNCHANGED = "changes nothing"
    UNPARSABLE = "does not parse"
    TOO_MANY = "too many"
    MALFORMED = "malformed"


class Refused(Exception):
    """An edit that has no place.

    Attributes:
      reason: the kind of refusal.
      row: the line of the source to show, from 0; None where no line is near.
    """

    def __init__(self, reason: Reason, why: str, row: int | None = None) -> None:
        super().__init__(why)
        self.reason = reason
        self.row = row


def exact_places(text: str, search: str) -> list[int]:
    """Offsets of `search` that cut through no token, escape or run of blanks; at most `MAX_PLACES`."""
    places: list[int] = []
    hits = 0
    at = text.find(search)
    while at >= 0 and len(places) < MAX_PLACES:
        hits += 1
        if hits > MAX_HITS:
            return [text.find(search), at]
        end = at + len(search)
        if not (at > 0 and _JOINED.match(text[at - 1 : at + 1])) and not _JOINED.match(text[end - 1 : end + 1]):
            places.append(at)
        at = text.find(search, at + 1)
    return places


def place(source: Source, search: str, replace: str) -> tuple[Source, Rung]:
    """The source with `search` replaced in its only place.

    Raises:
      Refused: there is no place for it, or more than one.
    """
    text = source.text
    found = exact_places(text, search)
    if len(found) > 1:
        raise _ambiguous([text.count("\n", 0, at) for at in found])
    if found:
        at, end = found[0], found[0] + len(search)
        whole_lines = text[at - 1 : at] in ("", "\n") and (search[-1] == "\n" or text[end : end + 1] in ("", "\n"))
        # Several lines from the middle of one on are no exact quotation: what is the indentation of the next?
        if whole_lines or "\n" not in search + replace:
            return Source(text[:at] + replace + text[end:]), Rung.EXACT
    if source.fault:
        raise Refused(Reason.MISSED, "it stands nowhere exactly, and in a file that does not parse nothing else counts")
    return _placed_by_lines(source, Source(search), Source(replace))


def nearest_row(source: Source, search: str) -> int | None:
    """The row to show to whoever wrote a block that was missed: where the nearest lines begin to differ from it."""
    block = Source(search)
    votes = _votes(source, block)
    if votes:
        start = max(votes, key=lambda offset: (votes[offset], -offset))
        for index, skeleton in enumerate(block.skeletons):
            at = min(max(start + index, 0), len(source.rows) - 1)
            if source.skeletons[at] != skeleton:
                return source.rows[at]
        return source.rows[start]
    longest = max((block.lines[row] for row in block.rows), key=len, default="")[:200]
    words = set(re.findall(r"\w+", longest))
    shared = {row: len(words.intersection(re.findall(r"\w+", source.lines[row][:200]))) for row in source.rows}
    compared = sorted((row for row in shared if shared[row]), key=lambda row: -shared[row])[:MAX_COMPARED]
    return max(compared, key=lambda row: ratio(longest.strip(), source.lines[row][:200].strip()), default=None)


def _placed_by_lines(source: Source, block: Source, replace: Source) -> tuple[Source, Rung]:
    wanted = "\n" + "\n".join(block.skeletons) + "\n"
    have = "\n" + "\n".join(source.skeletons) + "\n"
    found: list[int] = []
    at = have.find(wanted)
    while at >= 0 and len(found) < MAX_PLACES:
        found.append(have.count("\n", 0, at))
        at = have.find(wanted, at + 1)
    if len(found) > 1:
        raise _ambiguous([source.rows[index] for index in found], " but for whitespace")
    start = found[0] if found else _close_start(source, block)
    rows = source.rows[start : start + len(block.rows)]
    place_lines = [source.lines[row] for row in rows]
    misspelt: dict[str, str] = {}
    for row, theirs, written in zip(rows, place_lines, (block.lines[row] for row in block.rows), strict=True):
        if "".join(theirs.split()) != "".join(written.split()):
            names = None if {row, row + 1} & source.string_rows else misspelt_names(written, theirs)
            if names is None:
                raise Refused(Reason.MISSED, f"it comes close to line {row + 1}, but there its code differs", row)
            misspelt.update(names)
    for name, meant in misspelt.items():
        if name in source.words or name in replace.words:
            where = "the file has both" if name in source.words else "so does its replacement"
            raise Refused(Reason.MISSED, f'it says "{name}" where the file says "{meant}", and {where}', rows[0])

    tabs = any("\t" in indentation(source.lines[row]) for row in rows if row not in source.string_rows)
    shift = 0 if rows[0] in source.string_rows else columns_of(place_lines[0]) - columns_of(block.lines[block.rows[0]])
    first_only = _first_line_only(source, block, replace, rows, shift)
    written_lines = _indented(block.lines, shift, tabs, first_only)
    _check_lines(source, rows, block, written_lines, close=not found)
    if not found and (shift or tabs):
        raise Refused(Reason.MISSED, "it is misspelt and indented otherwise than the nearest lines", rows[0])

    lines = _indented(_trimmed(block, replace), shift, tabs, first_only)
    result = Source("\n".join([*source.lines[: rows[0]], *lines, *source.lines[rows[-1] + 1 :]]))
    if result.fault:
        line, message = result.fault
        raise Refused(Reason.UNPARSABLE, f"so placed, line {line} would not parse: {message}", rows[0])
    strings = {source.lines[row] for row in rows if row in source.string_rows} | {""}
    moved = (row for row in range(rows[0], rows[0] + len(lines)) if row in result.string_rows)
    if lines != _trimmed(block, replace) and any(result.lines[row] not in strings for row in moved):
        raise Refused(Reason.MISSED, "to indent it as the file is would alter a string of several lines", rows[0])
    return result, Rung.CLOSE if not found else Rung.INDENTATION if shift else Rung.WHITESPACE


def _check_lines(source: Source, rows: list[int], block: Source, written_lines: list[str], close: bool) -> None:
    """Refuses a block that differs by more than whitespace that means nothing.

    Raises:
      Refused: whitespace in a string differs, or the indentation, by another amount than the first line's.
    """
    inside = source.string_rows
    edge = (block.rows[0] > 0 and rows[0] in inside) or (
        block.rows[-1] < len(block.lines) - 2 and rows[-1] + 1 in inside
    )
    for index, (row, written_row) in enumerate(zip(rows, block.rows, strict=True)):
        line, written = source.lines[row], written_lines[written_row]
        flags = row in inside, row + 1 in inside
        same = close and "".join(line.split()) != "".join(written.split())  # found to be but misspelt
        same = same or canonical(written, *flags) == canonical(line, *flags)
        if index and row in inside:
            gap = source.lines[rows[index - 1] + 1 : row]
            same = same and gap == block.lines[block.rows[index - 1] + 1 : written_row]
        if edge or not same:
            raise Refused(Reason.MISSED, f"it differs in the whitespace of a string on line {row + 1}", row)
        if row not in inside and columns_of(written) != columns_of(line):
            raise Refused(Reason.MISSED, f"it is indented unevenly: line {row + 1} is the first to differ", row)


def _first_line_only(source: Source, block: Source, replace: Source, rows: list[int], shift: int) -> bool:
    """True if the block's and the replacement's first line alone lost their indentation, as a stripped text does."""
    if shift <= 0 or len(rows) < 2 or not replace.rows:
        return False
    firsts = block.lines[block.rows[0]], replace.lines[replace.rows[0]]
    others = zip(rows[1:], block.rows[1:], strict=True)
    return (
        not any(map(indentation, firsts))
        and all(columns_of(source.lines[row]) == columns_of(block.lines[written]) for row, written in others)
        and all(columns_of(replace.lines[row]) >= shift for row in replace.rows[1:])
    )


def _close_start(source: Source, block: Source) -> int:
    """Where most of a block's lines stand, as an index of `source.rows`."""
    num_lines = len(block.rows)
    pairs = Counter(source.skeletons)
    if sum(pairs[skeleton] for skeleton in block.skeletons) > MAX_PAIRS:
        raise Refused(Reason.MISSED, "it stands nowhere, and its lines are too common to look for the nearest")
    votes = Counter({at: n for at, n in _votes(source, block).items() if 0 <= at <= len(source.rows) - num_lines})
    (start, best), (_, second) = (*votes.most_common(2), (0, 0), (0, 0))[:2]
    if best < CLOSE_RATIO * num_lines:
        raise Refused(Reason.MISSED, "no lines of the file read like it", nearest_row(source, block.text))
    if best - second < CLOSE_MARGIN * num_lines:
        raise Refused(Reason.MISSED, "it comes close to more than one place", source.rows[start])
    return start


def _votes(source: Source, block: Source) -> dict[int, int]:
    """How many of the block's lines stand at their place, for each place that has one."""
    indices: dict[str, list[int]] = {}
    for index, skeleton in enumerate(source.skeletons):
        indices.setdefault(skeleton, []).append(index)
    rare_only = sum(len(indices.get(skeleton, ())) for skeleton in block.skeletons) > MAX_PAIRS
    votes: Counter[int] = Counter()
    for offset, skeleton in enumerate(block.skeletons):
        found = indices.get(skeleton, ())
        if not rare_only or len(found) == 1:
            votes.update(index - offset for index in found)
    return votes


def _trimmed(block: Source, replace: Source) -> list[str]:
    """The replacement's lines without as many blank ones before and after as the block has."""
    if not replace.rows:
        return []
    before = min(block.rows[0], replace.rows[0])
    after = min(len(block.lines) - block.rows[-1], len(replace.lines) - replace.rows[-1]) - 1
    return replace.lines[before : len(replace.lines) - after]


def _indented(lines: list[str], shift: int, tabs: bool, first_only: bool) -> list[str]:
    """Lines moved by `shift` columns and indented as the file is; the same where there is nothing to move."""
    if not shift and not tabs and not any("\t" in indentation(line) for line in lines):
        return lines
    moved = []
    pending = shift
    for line in lines:
        columns = columns_of(line) + pending
        if line.strip():
            pending = 0 if first_only else shift
            if columns < 0:
                raise Refused(Reason.MISSED, "it is indented deeper than the file, and its replacement is not")
            indent = "\t" * (columns // TAB_COLUMNS) + " " * (columns % TAB_COLUMNS) if tabs else " " * columns
            line = indent + line.lstrip()
        moved.append(line)
    return moved


def _ambiguous(rows: list[int], how: str = "") -> Refused:
    numbers = ", ".join(str(row + 1) for row in rows)
    more = " and more" if len(rows) == MAX_PLACES else ""
    return Refused(Reason.AMBIGUOUS, f"it stands{how} in more than one place, on lines {numbers}{more}", rows[0])
