"""program.md: the one page by which a human steers the loop, read with line numbers in every complaint."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from autoresearch_jax.engine.stopping import STOP_EXAMPLES, Stop, Target, parse_stop
from autoresearch_jax.engine.training_file import ConstantValue
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.space import (
    Choices,
    Constant,
    FloatRange,
    IntRange,
    Values,
    format_value,
    parse_value,
)

SECTIONS = ("Goal", "You may change", "You must not change", "Stop when", "Ideas")
TABLE_SECTION = "You may change"
STOP_SECTION = "Stop when"
COLUMNS = ("constant", "values", "note")

_RANGE = re.compile(r"(?P<low>\S+)\s*\.\.\s*(?P<high>\S+)(?P<log>\s+log)?", re.IGNORECASE)
_CHOICE = re.compile(r"""\s*("[^"]*"|'[^']*'|[^,]+)\s*(?:,|$)""")
_VALUES_HELP = "expected LOW .. HIGH, LOW .. HIGH log, or a list such as 1, 2, 4"


class ProgramError(UserError):
    """program.md cannot be understood; the message begins with the file and the line."""


@dataclass(frozen=True)
class ProgramPage:
    """program.md, read: its text, the rows of its table, its stopping list (the first item that holds counts)."""

    path: Path
    text: str
    constants: tuple[Constant, ...]
    stops: tuple[Stop, ...]

    def space(self, constants: Mapping[str, ConstantValue]) -> tuple[Constant, ...]:
        """The table as it fits a source with these constants: whole ends are real ones for a real constant.

        Raises:
          ProgramError: a constant that the source does not have, or whose value is of another type.
        """
        return tuple(self._fit(row, constants) for row in self.constants)

    def usable(self, constants: Mapping[str, ConstantValue]) -> tuple[tuple[Constant, ...], tuple[str, ...]]:
        """As `space`, but leaves out the rows that do not fit; returns the rows that do, and the complaints."""
        rows: list[Constant] = []
        complaints: list[str] = []
        for row in self.constants:
            try:
                rows.append(self._fit(row, constants))
            except ProgramError as error:
                complaints.append(str(error))
        return tuple(rows), tuple(complaints)

    def warnings(self, constants: Mapping[str, ConstantValue]) -> list[str]:
        """A line for each constant whose present value is outside its own row."""
        return [
            f"{self.path}:{row.line}: {row.name} is {_show(constants[row.name])} now, outside {row.values}: "
            "once moved it never comes back"
            for row in self.space(constants)
            if not _contains(row.values, constants[row.name])
        ]

    def check_metric(self, metric: str) -> None:
        """Refuses a target that can never be reached because the task has another metric.

        Raises:
          ProgramError: there is one.
        """
        for stop in self.stops:
            if isinstance(stop, Target) and stop.metric != metric:
                raise ProgramError(f'{self.path}: "{STOP_SECTION}" names {stop.metric}, but the metric is {metric}')

    def _fit(self, row: Constant, constants: Mapping[str, ConstantValue]) -> Constant:
        where = f"{self.path}:{row.line}: "
        if row.name not in constants:
            known = ", ".join(constants) or "none"
            raise ProgramError(f"{where}no constant {row.name} at the top of the editable file; there are: {known}")
        value = constants[row.name]
        if value is None or isinstance(value, tuple):
            raise ProgramError(f"{where}{row.name} is {_show(value)}, which is not one number, string or truth value")
        if isinstance(row.values, Choices):
            return row
        if isinstance(value, bool | str):
            raise ProgramError(f"{where}{row.name} is {value!r}, which has no range; list its values instead")
        if isinstance(value, int) and isinstance(row.values, FloatRange):
            raise ProgramError(f"{where}{row.name} is the whole number {value}; give whole numbers, not {row.values}")
        if isinstance(value, float) and isinstance(row.values, IntRange):
            values = FloatRange(float(row.values.low), float(row.values.high), row.values.log)
            return Constant(row.name, values, row.note, row.line)
        return row


def read_program(path: Path) -> ProgramPage:
    """Reads program.md.

    Raises:
      ProgramError: it is not there, or cannot be understood.
    """
    return parse_program(read_page(path), path)


def read_page(path: Path) -> str:
    """The text of program.md.

    Raises:
      ProgramError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ProgramError(f"{path}: no such file: write one, or name it with --program") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ProgramError(f"{path}: cannot be read: {error}") from error


def parse_program(text: str, path: Path = Path("program.md")) -> ProgramPage:
    """Understands the text of program.md; see `read_program`."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    sections = _sections(tokens, path)
    return ProgramPage(
        path=path,
        text=text,
        constants=tuple(_constants(sections.get(TABLE_SECTION, []), path)),
        stops=tuple(_stops(sections.get(STOP_SECTION, []), path)),
    )


def _sections(tokens: Sequence[Token], path: Path) -> dict[str, list[Token]]:
    """Tokens under each heading of the second level."""
    known = {name.lower(): name for name in SECTIONS}
    sections: dict[str, list[Token]] = {}
    current: list[Token] = []
    for token, following in zip_longest(tokens, tokens[1:]):
        if token.type == "heading_open" and token.tag == "h2" and following is not None:
            title = following.content.strip().rstrip(":").lower()
            if title not in known:
                raise _error(path, token, f"unknown section {following.content!r}; one of: {', '.join(SECTIONS)}")
            if known[title] in sections:
                raise _error(path, token, f"a second section {known[title]!r}; merge the two")
            current = sections[known[title]] = []
        current.append(token)
    if not sections:  # an editor may empty a page for a moment before it writes it
        raise ProgramError(f"{path}: no section: the page is made of ## {', ## '.join(SECTIONS)}")
    return sections


def _constants(tokens: Sequence[Token], path: Path) -> Iterator[Constant]:
    names: set[str] = set()
    for row, is_header in _rows(tokens):
        cells = [token.content.replace("`", "").strip() for token in row]
        if is_header:
            if tuple(cell.lower() for cell in cells) not in (COLUMNS, COLUMNS[:2]):
                raise _error(path, row[0], f"the table's columns must be {' | '.join(COLUMNS)}")
            continue
        name, values, note = (*cells, "")[:3]
        if not name.isidentifier():
            raise _error(path, row[0], f"{name!r} is not the name of a constant")
        if name in names:
            raise _error(path, row[0], f"a second row for {name}; keep one")
        names.add(name)
        try:
            yield Constant(name, _values(values), note, _line(row[0]))
        except ValueError as error:
            raise _error(path, row[0], f"{name}: {error}") from error


def _rows(tokens: Sequence[Token]) -> Iterator[tuple[list[Token], bool]]:
    """Cells of each table row, and whether it is a header."""
    row: list[Token] | None = None
    is_header = False
    for token in tokens:
        if token.type == "tr_open":
            row, is_header = [], False
        elif token.type == "th_open":
            is_header = True
        elif token.type == "inline" and row is not None:
            row.append(token)
        elif token.type == "tr_close" and row is not None:
            yield row, is_header
            row = None


def _values(text: str) -> Values:
    """What a cell of the column `values` allows.

    Raises:
      ValueError: it cannot be understood, and why.
    """
    if ".." in text:
        return _range(text)
    choices = tuple(parse_value(word) for word in _CHOICE.findall(text) if word.strip())
    if len(set(map(repr, choices))) < max(2, len(choices)):
        raise ValueError(f"{text!r} is not two or more different values; {_VALUES_HELP}")
    return Choices(choices)


def _range(text: str) -> FloatRange | IntRange:
    match = _RANGE.fullmatch(text.strip())
    low, high = (parse_value(match["low"]), parse_value(match["high"])) if match else (None, None)
    if match is None or not _is_number(low) or not _is_number(high):
        raise ValueError(f"{text!r} is not a range; {_VALUES_HELP}")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    log = match["log"] is not None
    if not float("-inf") < low < high < float("inf"):
        raise ValueError(f"{text!r}: the low end must be below the high end")
    if log and low <= 0:
        raise ValueError(f"{text!r}: a log range must begin above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntRange(low, high, log)
    return FloatRange(float(low), float(high), log)


def _stops(tokens: Sequence[Token], path: Path) -> Iterator[Stop]:
    in_item = 0
    for token in tokens:
        in_item += {"list_item_open": 1, "list_item_close": -1}.get(token.type, 0)
        if token.type == "inline" and in_item:
            stop = parse_stop(token.content.replace("`", "").strip())
            if stop is None:
                raise _error(path, token, f"not understood: {token.content!r}; understood are {STOP_EXAMPLES}")
            yield stop


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _contains(values: Values, value: ConstantValue) -> bool:
    return isinstance(value, int | float | str) and values.contains(value)


def _show(value: ConstantValue) -> str:
    return format_value(value)


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 0


def _error(path: Path, token: Token, message: str) -> ProgramError:
    return ProgramError(f"{path}:{_line(token)}: {message}")


class ProgramFile:
    """The last version of program.md that could be understood."""

    def __init__(self, path: Path) -> None:
        """Reads it for the first time.

        Raises:
          ProgramError: it is not there, or cannot be understood.
        """
        self._path = path
        self._program = read_program(path)
        self._complaints: tuple[str, ...] = ()

    @property
    def program(self) -> ProgramPage:
        """The last good version."""
        return self._program

    def refresh(
        self, constants: Mapping[str, ConstantValue], metric: str, complain: Callable[[str], None]
    ) -> Sequence[Constant]:
        """Reads the file again and returns the constants that may be moved.

        Rows that do not fit the champion's `constants` are left out; `complain` is told once of each new problem.
        """
        broken: tuple[str, ...] = ()
        try:
            text = read_page(self._path)
            if text != self._program.text:
                program = parse_program(text, self._path)
                program.check_metric(metric)
                self._program = program
        except ProgramError as error:
            broken = (f"{error} (the version before stays in force)",)
        space, misfits = self._program.usable(constants)
        for complaint in (*broken, *misfits):
            if complaint not in self._complaints:
                complain(complaint)
        self._complaints = (*broken, *misfits)
        return space
