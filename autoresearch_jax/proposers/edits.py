"""Edits that an agent makes, blocks or a whole file: placed where they belong, or refused with the reason.

The result is the text that was asked for, or an `EditError` from which the agent can mend its edits; never a guess.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_jax.proposers.edit_lines import Source
from autoresearch_jax.proposers.edit_places import Reason, Refused, Rung, exact_places, nearest_row, place
from autoresearch_jax.sanitize import clean_block, clean_line

MAX_EDITS = 64
MAX_CHARACTERS = 1 << 20  # of a file or a block; larger ones are refused, so that no answer costs minutes
MAX_ROWS_SHOWN = 8  # lines of the file that are shown with a problem
MAX_PROBLEMS_SHOWN = 10  # problems that are shown with lines of the file
_LINE_CHARACTERS = 160
_NUMBERS_SHOWN = 700  # characters of a reason: the line numbers of all places of an ambiguous block
_FENCE = re.compile(r"\s*^(`{3,}|~{3,})[^\n`]*\n(.*?)^\1[`~]*\s*\Z", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Edit:
    """Replace the one place that reads `search` by `replace`."""

    search: str
    replace: str


@dataclass(frozen=True)
class Edited:
    """A source after its edits.

    Attributes:
      source: the new text; it parses as Python.
      rungs: by which rung each edit was placed, in their order.
    """

    source: str
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one edit.

    Attributes:
      edit: its number, from 1; None if it is the answer as a whole.
      reason: the kind of problem.
      text: one line for the agent, and where it helps the nearest lines of the file, marked and numbered.
    """

    edit: int | None
    reason: Reason
    text: str

    def __str__(self) -> str:
        return f"{'edits' if self.edit is None else f'edit {self.edit}'}: {self.reason.value}: {self.text}"


class EditError(Exception):
    """Edits that were not applied; none of them was. The message tells the agent all that is to be mended."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def apply_edits(source: str, edits: Sequence[Edit]) -> Edited:
    """The source after all edits, each applied to the text as those before it left it.

    Line ends are compared and written as one character; a source that ends all its lines in CRLF keeps them.
    Takes time in proportion to the source for each edit: half a second at 256 KiB where whitespace is forgiven. Holds
    one text at a time, and what was replaced so far.

    Raises:
      EditError: an edit searches for nothing, changes nothing, has no place or several, or makes the text too long; the
        result does not parse, or is the source. It names all of these that there are.
    """
    if len(edits) > MAX_EDITS:
        raise EditError(
            [Problem(None, Reason.TOO_MANY, f"{len(edits)} edits; give at most {MAX_EDITS} or the whole file")]
        )
    if len(source) > MAX_CHARACTERS:
        raise EditError([Problem(None, Reason.TOO_MANY, f"the file has more than {MAX_CHARACTERS} characters")])
    start = unix_lines(source)
    current = Source(start)
    undone: list[_Undo] = []
    rungs: list[Rung] = []
    problems: list[Problem] = []
    for number, edit in enumerate(edits, 1):
        try:
            edited, rung = _applied(current, edit)
        except Refused as refused:
            shown = len(problems) < MAX_PROBLEMS_SHOWN
            rows = _rows_shown(current, refused.row) if shown and refused.row is not None else ""
            problems.append(Problem(number, refused.reason, clean_line(str(refused), _NUMBERS_SHOWN) + rows))
        else:
            undone.append(_undo(current.text, edited.text))
            rungs.append(rung)
            current = edited
    if not problems and current.fault:
        problems.append(_unparsable(current, undone))
    if not problems and current.text == start:
        problems.append(
            Problem(None, Reason.UNCHANGED, "together they leave the file as it is; nothing would be measured")
        )
    if problems:
        raise EditError(problems)
    return Edited(_with_line_ends_of(source, current.text), tuple(rungs))


def replace_file(source: str, text: str) -> Edited:
    """A whole new file, its line ends of one character, without a Markdown fence around it.

    Raises:
      EditError: it is empty, does not parse, or is the file as it stands.
    """
    if len(text) > MAX_CHARACTERS:
        raise EditError([Problem(None, Reason.TOO_MANY, f"the new file has more than {MAX_CHARACTERS} characters")])
    new = Source(unfenced(unix_lines(text)))
    if not new.text.strip():
        raise EditError([Problem(None, Reason.EMPTY, "the new file is empty; give all of it")])
    if new.fault:
        raise EditError([_unparsable(new, [])])
    if new.text == unix_lines(source):
        raise EditError([Problem(None, Reason.UNCHANGED, "the new file is the old one; nothing would be measured")])
    return Edited(new.text, ())


def edits_between(old: str, new: str, least_around: int = 0) -> list[Edit]:
    """Edits that make `new` of `old`, each with as few lines around it as make its place the only one.

    Args:
      old: the file as it stands; an empty one has no place for an edit.
      new: the file as it is to be; line ends count as one character.
      least_around: lines before and after each change that are quoted in any case.
    """
    current = _kept_lines(unix_lines(old))
    wanted = _kept_lines(unix_lines(new))
    matcher = difflib.SequenceMatcher(None, current, wanted)
    edits = []
    moved = 0
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        low, high = i1 + moved, i2 + moved
        text = "".join(current)
        around = least_around
        while True:
            before, after = current[max(0, low - around) : low], current[high : high + around]
            search = "".join([*before, *current[low:high], *after])
            if (search.strip() and len(exact_places(text, search)) == 1) or around > len(current):
                break
            around += 1 + around // 4
        if not search.strip():  # of the lines still to be replaced only blank ones are left, and they have no place
            return [Edit(unix_lines(old), unix_lines(new))]
        edits.append(Edit(search, "".join([*before, *wanted[j1:j2], *after])))
        current = [*current[:low], *wanted[j1:j2], *current[high:]]
        moved += (j2 - j1) - (i2 - i1)
    return edits


def unix_lines(text: str) -> str:
    """With line ends of one character, as Python's parser reads them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def unfenced(text: str) -> str:
    """What stands in a Markdown fence, if all of the text does."""
    fence = _FENCE.match(text)
    return fence[2] if fence else text


def _applied(source: Source, edit: Edit) -> tuple[Source, Rung]:
    """The source after one edit.

    Raises:
      Refused: the edit cannot be applied, or changes nothing.
    """
    if len(edit.search) + len(edit.replace) > MAX_CHARACTERS:
        raise Refused(Reason.TOO_MANY, f"the block has more than {MAX_CHARACTERS} characters")
    search, replace = unix_lines(edit.search), unix_lines(edit.replace)
    if not source.text.strip():
        raise Refused(Reason.MISSED, "the file is empty: give the whole file instead of edits")
    if not search.strip():
        raise Refused(
            Reason.EMPTY, "quote the lines that are to be replaced; to insert, quote the line before or after"
        )
    if search == replace:
        raise Refused(Reason.SAME, "it changes nothing", nearest_row(source, search))
    try:
        edited, rung = place(source, search, replace)
    except Refused as refused:
        if refused.row is not None or refused.reason is not Reason.MISSED:
            raise
        within = "; it is found only within a longer word or line: quote whole lines" if search in source.text else ""
        raise Refused(refused.reason, f"{refused}{within}", nearest_row(source, search)) from None
    if edited.text == source.text:
        raise Refused(Reason.UNCHANGED, "what it would write stands there already", nearest_row(source, search))
    if len(edited.text) > MAX_CHARACTERS:
        raise Refused(Reason.TOO_MANY, f"with it the file would have more than {MAX_CHARACTERS} characters")
    return edited, rung


@dataclass(frozen=True)
class _Undo:
    """How the text before an edit is made of the one after it; no longer than what the edit replaced.

    Attributes:
      start: offset of what the edit wrote.
      written: characters that it wrote.
      replaced: what stood there before.
    """

    start: int
    written: int
    replaced: str


def _undo(before: str, after: str) -> _Undo:
    start = _shared(before, after)
    end = _shared(before[start:][::-1], after[start:][::-1])
    return _Undo(start, len(after) - start - end, before[start : len(before) - end])


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _unparsable(result: Source, undone: Sequence[_Undo]) -> Problem:
    """The result does not parse; the edit after which no text did is named."""
    text = result.text
    which: int | None = None  # the file itself did not
    for number, undo in reversed(list(enumerate(undone, 1))):
        text = text[: undo.start] + undo.replaced + text[undo.start + undo.written :]
        if not Source(text).fault:
            which = number
            break
    line, message = result.fault or (1, "")
    words = f"line {line} of the result: {clean_line(message, 200)}"
    if undone and which is None:
        words += "; the file did not parse before either"
    return Problem(which, Reason.UNPARSABLE, words + _rows_shown(result, line - 1, "lines of the result"))


def _rows_shown(source: Source, row: int, label: str = "lines of the file") -> str:
    """The lines around one, numbered and marked, cut so that they stay short; what they say is data."""
    lines = source.lines
    first = max(0, min(row, len(lines) - 1) - 2)
    shown = []
    for number, line in enumerate(lines[first : first + MAX_ROWS_SHOWN], first + 1):
        clean = clean_block(line[:_LINE_CHARACTERS]).replace("\n", " ")
        shown.append(f"| {number:4d} | {clean}{'...' if len(line) > _LINE_CHARACTERS else ''}".rstrip())
    return "\n".join([f"; {label}, each with its number:", *shown])


def _with_line_ends_of(source: str, text: str) -> str:
    windows = "\r\n" in source and source.count("\r\n") == source.count("\n") == len(re.findall("\r", source))
    return text.replace("\n", "\r\n") if windows else text


def _kept_lines(text: str) -> list[str]:
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
