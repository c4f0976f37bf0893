"""An agent's edits: read from its answer, and placed in the file or refused with what is needed to mend them.

A search text is looked for exactly, then with whitespace ignored, then with another indentation. The result is the text
that was asked for or an `EditError`, never a guess.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.sanitize import clean_block, clean_line

MAX_EDITS = 64
MAX_CHARACTERS = 1 << 20  # of a file or an edit
MAX_PLACES = 100  # of an ambiguous search text that are counted
MAX_HITS = 1_000  # that are looked at, within longer words too; with more a search text is ambiguous
_SHOWN = "; lines of "
MAX_LINES_SHOWN = 8  # of the file, with a problem
TAB_COLUMNS = 4  # what a model writes for a tab
TYPOGRAPHIC = frozenset("“”„‟‘’‚‛′″«»–—−…\u00a0")  # what word processors, and some models, write for plain characters
_LINE_CHARACTERS = 160
_PROBLEM_CHARACTERS = 700  # room for the line numbers of the places of an ambiguous text
_FENCE = re.compile(r"\s*^(`{3,}|~{3,})[^\n`]*\n(.*?)^\1[`~]*\s*\Z", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(r"[ \t]*(<{5,} ?SEARCH\b.*|={5,}[ \t]*|>{5,} ?REPLACE\b.*)")
# Two characters that may belong to one token, escape or run of blanks.
_JOINED = re.compile(r"""\w\w|[ \t]{2}|\d\.|\.\d|\w["']|""|''|\\.|[=!<>+\-*/%&|^@:]=|->|<<|>>|\*\*|//""")


@dataclass(frozen=True)
class Edit:
    """Replace the one place that reads `search` by `replace`."""

    search: str
    replace: str


class EditError(Exception):
    """Edits that were not applied, none of them; the message tells the agent all that is to be mended.

    `unchanged` is True if nothing is wrong but that they change nothing.
    """

    def __init__(self, *problems: str, unchanged: bool = False) -> None:
        super().__init__("\n".join(problems))
        self.unchanged = unchanged

    @property
    def first(self) -> str:
        """The first problem in one line, without the lines of the text that go with it."""
        return clean_line(str(self).partition("\n")[0].partition(_SHOWN)[0])


class _Refused(Exception):  # an edit that cannot be applied; `row` is the line of the file to show with it, from 0
    def __init__(self, why: str, row: int | None = None, unchanged: bool = False) -> None:
        super().__init__(why)
        self.row = row
        self.unchanged = unchanged


def read_edits(text: str) -> list[Edit]:
    """The edits of a free text, as SEARCH/REPLACE blocks or as the hunks of a unified diff; empty if it has neither.

    A block is `<<<<<<< SEARCH`, the lines as they stand, `=======`, the new lines, `>>>>>>> REPLACE`, with or without
    Markdown fences around it or its halves.

    Raises:
      EditError: a marker of a block is missing or one too many.
    """
    lines = unix_lines(text).split("\n")
    return _blocks(lines) or _hunks(lines)


def apply_edits(source: str, edits: Sequence[Edit], asset: AssetKind = TRAINING_FILE) -> str:
    """The source after all edits, each applied to the text as those before it left it; it parses as its kind.

    Line ends are compared and written as one character; a source that ends all its lines in CRLF keeps them.

    Raises:
      EditError: an edit searches for nothing, changes nothing, has no place or several, or makes the text too long; the
        result does not parse, or is the source. It names all of these that there are.
    """
    if len(edits) > MAX_EDITS:
        raise EditError(f"{len(edits)} edits are too many: give at most {MAX_EDITS} or the whole file")
    texts = [_Text(unix_lines(source), asset)]  # the source, and what each edit made of it
    problems: list[str] = []
    unchanged = True
    for number, edit in enumerate(edits, 1):
        try:
            texts.append(_applied(texts[-1], edit))
        except _Refused as refused:
            shown = "" if refused.row is None else texts[-1].around(refused.row)
            problems.append(f"edit {number}: {clean_line(str(refused), _PROBLEM_CHARACTERS)}{shown}")
            unchanged = unchanged and refused.unchanged
    if problems:
        raise EditError(*problems, unchanged=unchanged)
    if texts[-1].fault:
        raise EditError(_unparsable(texts))
    if texts[-1].text == texts[0].text:
        raise EditError("the edits together change nothing", unchanged=True)
    windows = "\r\n" in source and source.count("\r\n") == source.count("\n") == source.count("\r")
    return texts[-1].text.replace("\n", "\r\n") if windows else texts[-1].text


def replace_file(source: str, text: str, asset: AssetKind = TRAINING_FILE) -> str:
    """A whole new file without a Markdown fence around it, its line ends of one character; or what edits in it make.

    Raises:
      EditError: it is empty, too long, does not parse, or is the file as it stands.
    """
    new = _Text(unfenced(unix_lines(text)), asset)
    if len(text) > MAX_CHARACTERS:
        raise EditError(f"the new file has more than {MAX_CHARACTERS} characters")
    if not new.text.strip():
        raise EditError("the new file is empty: give all of it")
    if new.fault:
        if edits := read_edits(text):
            return apply_edits(source, edits, asset)
        raise EditError(_unparsable([new]))
    if new.text == unix_lines(source):
        raise EditError("the new file changes nothing", unchanged=True)
    return new.text


def unix_lines(text: str) -> str:
    """With line ends of one character, as Python's parser reads them, and without a byte-order mark."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def unfenced(text: str) -> str:
    """What stands in a Markdown fence, if all of the text does."""
    fence = _FENCE.match(text)
    return fence[2] if fence else text


@dataclass(frozen=True)
class _Text:
    """A text with line ends of one character, and what is known of its lines; rows count from 0."""

    text: str
    asset: AssetKind

    @cached_property
    def lines(self) -> list[str]:
        """Split as Python does it: a form feed or U+2028 ends no line."""
        return self.text.split("\n")

    @cached_property
    def rows(self) -> list[int]:
        """The lines that are not blank."""
        return [row for row, line in enumerate(self.lines) if line.strip()]

    @cached_property
    def skeletons(self) -> list[str]:
        """The lines of `rows` without any whitespace."""
        return ["".join(self.lines[row].split()) for row in self.rows]

    @cached_property
    def _parsed(self) -> tuple[str, tuple[int, str] | None]:
        try:
            return self.asset.tree(self.text), None
        except AssetSyntaxError as error:
            return "", (error.line or 1, error.message)

    @property
    def program(self) -> str:
        """What the text says, see `AssetKind.tree`; empty if it does not parse."""
        return self._parsed[0]

    @property
    def fault(self) -> tuple[int, str] | None:
        """The line, from 1, and the parser's message, if the text does not parse."""
        return self._parsed[1]

    def around(self, row: int, label: str = "the file") -> str:
        """The lines around one, numbered, marked and cut so that they stay short: what they say is data."""
        first = max(0, min(row, len(self.lines) - 1) - 2)
        shown = []
        for number, line in enumerate(self.lines[first : first + MAX_LINES_SHOWN], first + 1):
            clean = clean_block(line[:_LINE_CHARACTERS]).replace("\n", " ")
            shown.append(f"| {number:4d} | {clean}{'...' if len(line) > _LINE_CHARACTERS else ''}".rstrip())
        return "\n".join([f"{_SHOWN}{label}, each with its number:", *shown])


def _applied(source: _Text, edit: Edit) -> _Text:
    """The source after one edit; raises _Refused."""
    search, replace = unix_lines(edit.search), unix_lines(edit.replace)
    if not source.text.strip():
        raise _Refused("the file is empty: give the whole file instead of edits")
    if not search.strip():
        raise _Refused("empty search: quote the lines to be replaced; to insert, quote the line before or after")
    if search == replace:
        raise _Refused("search equals replace: it changes nothing", _nearest_row(source, search), unchanged=True)
    try:
        edited = _placed(source, search, replace)
    except _Refused as refused:
        if foreign := sorted(TYPOGRAPHIC & set(search) - set(source.text)):
            names = ", ".join(f"{character} (U+{ord(character):04X})" for character in foreign)
            raise _Refused(
                f"{refused}; it has {names}, which the file has not: copy its characters", refused.row
            ) from None
        raise
    if edited.text == source.text:
        row = _nearest_row(source, search)
        raise _Refused("changes nothing: what it would write stands there already", row, unchanged=True)
    if len(edited.text) > MAX_CHARACTERS:
        raise _Refused(f"with it the file would have more than {MAX_CHARACTERS} characters")
    return edited


def _placed(source: _Text, search: str, replace: str) -> _Text:
    """The source with `search` replaced in its only place; raises _Refused."""
    text = source.text
    found = _places(text, search)
    if len(found) > 1:
        raise _ambiguous([text.count("\n", 0, at) for at in found])
    if found:
        at, end = found[0], found[0] + len(search)
        whole_lines = text[at - 1 : at] in ("", "\n") and (search[-1] == "\n" or text[end : end + 1] in ("", "\n"))
        # Several lines from the middle of one on say nothing of the indentation of the next.
        if whole_lines or "\n" not in search + replace:
            return _Text(text[:at] + replace + text[end:], source.asset)
    if source.fault:
        raise _Refused("missed: it stands nowhere exactly, and in a file that does not parse nothing else counts")
    return _placed_by_lines(source, _Text(search, source.asset), _Text(replace, source.asset))


def _places(text: str, search: str) -> list[int]:
    """The first offsets of `search` at which it neither begins nor ends within a token, escape or run of blanks."""
    places: list[int] = []
    first = at = text.find(search)
    for _ in range(MAX_HITS):
        if at < 0 or len(places) == MAX_PLACES:
            return places
        ends = (at, at + len(search))
        if not any(end > 0 and _JOINED.match(text[end - 1 : end + 1]) for end in ends):
            places.append(at)
        at = text.find(search, at + 1)
    return [first, at]


def _placed_by_lines(source: _Text, search: _Text, replace: _Text) -> _Text:
    """The source with whole lines replaced that read like `search` but for whitespace and the indentation of them all.

    What whitespace means is the kind's to say: the lines of `search`, moved to the place, have to say the same.
    """
    wanted, have = (f"\n{chr(10).join(text.skeletons)}\n" for text in (search, source))
    found = [have.count("\n", 0, at) for at in _places(have, wanted)]
    if len(found) > 1:
        raise _ambiguous([source.rows[index] for index in found], " but for whitespace")
    if not found:
        within = "; it is only part of a longer word or line: quote whole lines" if search.text in source.text else ""
        raise _Refused(f"missed: it stands nowhere in the file{within}", _nearest_row(source, search.text))
    first, last = source.rows[found[0]], source.rows[found[0] + len(search.rows) - 1]
    place = source.lines[first : last + 1]
    shift = _columns(place[0]) - _columns(search.lines[search.rows[0]])
    tabs = any("\t" in _indentation(line) for line in place)

    def with_lines(lines: list[str]) -> _Text:
        return _Text("\n".join([*source.lines[:first], *lines, *source.lines[last + 1 :]]), source.asset)

    same = _moved(search.lines[search.rows[0] : search.rows[-1] + 1], shift, tabs)
    if same is None or not source.program or with_lines(same).program != source.program:
        raise _Refused("missed: it differs in whitespace that counts, of a string or of the indentation", first)
    lines: list[str] = []
    if replace.rows:  # blank lines that stand around the search text, too, are no part of the place
        after = min(len(search.lines) - search.rows[-1], len(replace.lines) - replace.rows[-1]) - 1
        lines = replace.lines[min(search.rows[0], replace.rows[0]) : len(replace.lines) - after]
    moved = _moved(lines, shift, tabs)
    if moved is None:
        raise _Refused("missed: it is indented deeper than the file, and its replacement is not", first)
    result = with_lines(moved)
    if result.fault:
        raise _Refused(f"so placed, line {result.fault[0]} does not parse: {result.fault[1]}", first)
    if moved != lines and any(_opens_string(line) for line in set(moved) - set(place)):
        raise _Refused("missed: to indent it as the file is would alter a string of several lines", first)
    return result


def _opens_string(line: str) -> bool:
    """True for a line at which a string of several lines may begin or end."""
    return any(line.count(quotes) % 2 for quotes in ('"""', "'''")) or line.endswith("\\")


def _moved(lines: list[str], shift: int, tabs: bool) -> list[str] | None:
    """Lines moved by `shift` columns and indented as the file is; None if one would begin before the first column."""
    if not shift and not tabs and not any("\t" in _indentation(line) for line in lines):
        return lines
    moved = []
    for line in lines:
        columns = _columns(line) + shift
        if line.strip():
            if columns < 0:
                return None
            indent = "\t" * (columns // TAB_COLUMNS) + " " * (columns % TAB_COLUMNS) if tabs else " " * columns
            line = indent + line.lstrip()
        moved.append(line)
    return moved


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _columns(line: str) -> int:
    return len(_indentation(line).expandtabs(TAB_COLUMNS))


def _nearest_row(source: _Text, search: str) -> int | None:
    """Where the lines most like a search text begin to differ from it."""
    block = _Text(search, source.asset)
    matcher = difflib.SequenceMatcher(None, source.skeletons, block.skeletons)
    found = matcher.find_longest_match()
    if found.size:
        differs = found.a + found.size if found.b + found.size < len(block.rows) else found.a - 1
        return source.rows[min(max(differs, 0), len(source.rows) - 1)]
    words = set(re.findall(r"\w+", max((block.lines[row] for row in block.rows), key=len, default="")))
    shared = {row: len(words.intersection(re.findall(r"\w+", source.lines[row]))) for row in source.rows}
    return max((row for row in shared if shared[row]), key=lambda row: shared[row], default=None)


def _ambiguous(rows: list[int], how: str = "") -> _Refused:
    numbers = ", ".join(str(row + 1) for row in rows)
    more = " and more" if len(rows) == MAX_PLACES else ""
    return _Refused(f"ambiguous: it stands{how} in more than one place, on lines {numbers}{more}", rows[0])


def _unparsable(texts: Sequence[_Text]) -> str:
    """What is wrong with the last of the texts; the edit after which none parsed is named."""
    result = texts[-1]
    line, message = result.fault or (1, "")
    parsed = next((number for number in reversed(range(len(texts))) if not texts[number].fault), None)
    who = "the file" if parsed is None else f"edit {parsed + 1}"
    before = "; the file did not parse before either" if parsed is None and len(texts) > 1 else ""
    words = f"{who}: does not parse: line {line} of the result: {clean_line(message, 200)}{before}"
    return words + result.around(line - 1, "the result")


def _blocks(lines: Sequence[str]) -> list[Edit]:
    """The SEARCH/REPLACE blocks of a text.

    Raises:
      EditError: markers do not pair.
    """
    edits: list[Edit] = []
    marks: list[int] = []  # rows of the markers of the block that is open
    for row, line in enumerate(lines):
        mark = line.strip()[:1] if _MARKER.fullmatch(line) else ""
        if not mark or (mark == "=" and not marks):
            continue
        if mark != "<=>"[len(marks)]:
            raise EditError(
                f"line {row + 1} of the answer, {clean_line(line, 40)}, does not belong there: a block is "
                "<<<<<<< SEARCH, the old lines, =======, the new lines, >>>>>>> REPLACE"
            )
        marks.append(row)
        if mark == ">":
            start, middle, end = marks
            halves = lines[start + 1 : middle], lines[middle + 1 : end]
            edits.append(Edit(*(unfenced("".join(f"{line}\n" for line in half)) for half in halves)))
            marks = []
    if marks:
        raise EditError(f"the block from line {marks[0] + 1} of the answer on has no end; was the answer cut off?")
    return edits


def _hunks(lines: Sequence[str]) -> list[Edit]:
    """The hunks of a unified diff, whose line numbers are not read: models count badly."""
    edits: list[Edit] = []
    hunk: list[str] | None = None
    for row, line in enumerate([*lines, "```"]):
        header = line.startswith("--- ") and lines[row + 1 : row + 2] and lines[row + 1].startswith("+++ ")
        if hunk is not None and (header or line[:1] not in ("", " ", "+", "-", "\\")):
            while hunk and not hunk[-1].strip():  # after the diff, not of it
                hunk.pop()
            old, new = ("".join(f"{line[1:]}\n" for line in hunk if line[:1] not in (drop, "\\")) for drop in "+-")
            edits.append(Edit(old, new))
            hunk = None
        if line.startswith("@@"):
            hunk = []
        elif hunk is not None:
            hunk.append(line)
    return edits
