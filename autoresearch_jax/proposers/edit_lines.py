"""The lines of a source and of an edit: what counts when they are compared, and how they are indented."""

import ast
import keyword
import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

NAME_RATIO = (
    0.88  # difflib's ratio of two parts of a name: learning and lerning pass, encoder and decoder (0.86) do not
)
MAX_NAME = 100  # longer parts of a name are not compared: the ratio takes their lengths' product
TAB_COLUMNS = 4  # what a model writes for a tab

_QUOTE = re.compile("[\"']")
_TOKEN = re.compile(r"[^\W\d]\w*|\d[\w.]*|\S")
_NAMING = frozenset({"def", "class", "async", "import", "from", "@"})  # what follows says which thing this is
_STRINGS = (ast.JoinedStr, getattr(ast, "TemplateStr", ast.JoinedStr))  # template strings: Python 3.14


@dataclass(frozen=True)
class Source:
    """A text with line ends of one character, and what is known of its lines; rows count from 0."""

    text: str

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
    def _parsed(self) -> tuple[tuple[int, str] | None, frozenset[int]]:
        try:
            tree = ast.parse(self.text)
        except SyntaxError as error:
            return (error.lineno or 1, error.msg), frozenset()
        except (ValueError, RecursionError, MemoryError) as error:  # a lone surrogate or NUL; nested too deeply
            return (1, str(error) or type(error).__name__), frozenset()
        inside: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, _STRINGS) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)):
                inside.update(range(node.lineno, node.end_lineno or node.lineno))
        return None, frozenset(inside)

    @property
    def fault(self) -> tuple[int, str] | None:
        """The line, from 1, and Python's message, if it does not parse."""
        return self._parsed[0]

    @property
    def string_rows(self) -> frozenset[int]:
        """Rows that begin inside of a string literal of several lines."""
        return self._parsed[1]

    @cached_property
    def words(self) -> frozenset[str]:
        """All names, wherever they stand."""
        return frozenset(re.findall(r"\w+", self.text))


def misspelt_names(written: str, meant: str) -> dict[str, str] | None:
    """Names of one line that are another's misspelt; None if the lines differ by more than that and a comment."""
    halves = _code(written), _code(meant)
    if halves[0][1] != halves[1][1]:
        return None
    ours, theirs = ([*_TOKEN.findall(head), "", *_TOKEN.findall(tail)] for head, _, tail in halves)
    wrong = {one: other for one, other in zip(ours, theirs, strict=False) if one != other}
    if len(ours) != len(theirs) or (wrong and ours[0] in _NAMING):
        return None
    return wrong if all(_near_names(one, other) for one, other in wrong.items()) else None


def _near_names(one: str, other: str) -> bool:
    if not (one.isidentifier() and other.isidentifier()) or keyword.iskeyword(one) or keyword.iskeyword(other):
        return False
    parts, others = one.split("_"), other.split("_")
    if len(parts) != len(others) or re.findall(r"\d", one) != re.findall(r"\d", other):
        return False
    differing = [pair for pair in zip(parts, others, strict=True) if pair[0] != pair[1]]
    return len(differing) == 1 and max(map(len, differing[0])) <= MAX_NAME and ratio(*differing[0]) >= NAME_RATIO


def ratio(one: str, other: str) -> float:
    """difflib's likeness of two short texts, from 0 to 1."""
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def canonical(line: str, from_string: bool = False, into_string: bool = False) -> tuple[str, str, str]:
    """A line before its first quote, between, and after its last: whitespace between counts, the rest's does not."""
    quotes = [match.start() for match in _QUOTE.finditer(line)]
    first = 0 if from_string else quotes[0] if quotes else len(line)
    last = len(line) if into_string else quotes[-1] + 1 if quotes else first
    return _squeezed(line[:first]), line[first:last], _squeezed(line[last:])


def _code(line: str) -> tuple[str, str, str]:
    """As `canonical`, without the comment."""
    head, between, tail = canonical(line)
    return (head.split("#")[0], "", "") if "#" in head else (head, between, tail.split("#")[0])


def _squeezed(text: str) -> str:
    """Without the blanks that separate no two words."""
    return re.sub(r"(?<!\w) | (?!\w)", "", " ".join(text.split()))


def indentation(line: str) -> str:
    """The whitespace that a line begins with."""
    return line[: len(line) - len(line.lstrip())]


def columns_of(line: str) -> int:
    """How far a line is indented, a tab as `TAB_COLUMNS`."""
    return len(indentation(line).expandtabs(TAB_COLUMNS))
