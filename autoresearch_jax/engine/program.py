"""program.md: the one page by which a human steers the loop, read with line numbers in every complaint."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind, ConstantValue
from autoresearch_jax.assets.merging import known_constants, settable_names
from autoresearch_jax.engine.constants_table import (
    COLUMNS,
    TableError,
    fit_row,
    is_header,
    is_within,
    read_rows,
)
from autoresearch_jax.engine.limits import STOP_EXAMPLES, Limit, Stop, Target, read_stops
from autoresearch_jax.engine.page_sections import (
    ORIGINAL_NOTE,
    SECTIONS,
    STOP_SECTION,
    TABLE_SECTION,
    Block,
    Section,
    TableRow,
    describe_original,
    limits_in_vain,
    original_sections,
    read_sections,
    section_of,
)
from autoresearch_jax.errors import UserError
from autoresearch_jax.files import plain_text
from autoresearch_jax.proposers.space import Constant, format_value
from autoresearch_jax.sanitize import quoted

SETTLE_SECONDS = 1.0  # a page that was written within this time may be half saved, and is read again
MOST_READINGS = 5  # of a page that is written again and again, before one of them counts
MAX_QUOTE_CHARACTERS = 80
_WHEN = re.compile(r"\b(?:weeks?|months?|tonight|tomorrow|midnight|noon|morning|evening|dawn)\b", re.IGNORECASE)


class ProgramError(UserError):
    """program.md cannot be understood; the message begins with the file and the line."""


@dataclass(frozen=True)
class ProgramPage:
    """program.md, read."""

    path: Path
    text: str  # all of it
    constants: tuple[Constant, ...]  # the rows of its table
    stops: tuple[Stop, ...]  # its stopping list; the first item that holds counts
    notices: tuple[str, ...] = ()  # what on it has no effect, a line each
    is_original: bool = False  # it is in the form of the original's page, which is prose for agents

    @property
    def for_agents(self) -> str:
        """What agents read of it: all of it, with a word on what is done for them where it asks them to do it."""
        return ORIGINAL_NOTE + self.text if self.is_original else self.text

    def space(self, constants: Mapping[str, ConstantValue]) -> tuple[Constant, ...]:
        """The table as it fits a source with these constants, see `fit_row`.

        Raises:
          ProgramError: a constant that the source does not have, or whose value is of another type.
        """
        try:
            return tuple(fit_row(row, constants) for row in self.constants)
        except TableError as error:
            raise _error(self.path, error.line, str(error)) from error

    def usable(
        self, asset: AssetKind, source: str, settled: Mapping[str, ConstantValue] | None = None
    ) -> tuple[tuple[Constant, ...], tuple[str, ...]]:
        """The rows of the table that fit a source, and why the others do not, a line each.

        Args:
          settled: see `fit_row`.
        """
        rows: list[Constant] = []
        complaints: list[str] = []
        constants, settable = known_constants(asset, source), settable_names(asset, source)
        for row in self.constants:
            try:
                rows.append(fit_row(row, constants, settled, settable))
            except TableError as error:
                complaints.append(f"{self.path}:{error.line}: {error}")
        return tuple(rows), tuple(complaints)

    def warnings(self, space: Sequence[Constant], constants: Mapping[str, ConstantValue]) -> list[str]:
        """A line for each constant whose present value is outside its own row."""
        return [
            f"{self.path}:{row.line}: {row.name} is {format_value(constants[row.name])} now, outside {row.values}: "
            "once moved it never comes back"
            for row in space
            if not is_within(row.values, constants[row.name])
        ]

    def check_metric(self, metric: str) -> None:
        """Refuses a target that can never be reached because the task has another metric.

        Raises:
          ProgramError: there is one.
        """
        for stop in self.stops:
            if isinstance(stop, Target) and stop.metric != metric:
                raise ProgramError(f'{self.path}: "{STOP_SECTION}" names {stop.metric}, but the metric is {metric}')


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
        return plain_text(path.read_bytes())
    except FileNotFoundError as error:
        raise ProgramError(f"{path}: no such file: write one, or name it with --program") from error
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ProgramError(f"{path}: is not UTF-8 text ({error}): save it as UTF-8") from error


def parse_program(text: str, path: Path = Path("program.md")) -> ProgramPage:
    """Understands the text of program.md; see `read_program`."""
    sections = read_sections(text)
    of_original = original_sections(sections)
    if not of_original and not any(
        section.name for section in sections
    ):  # an editor may empty a page for a moment before it writes it
        raise ProgramError(f"{path}: no section: the page is made of ## {', ## '.join(SECTIONS)}")
    _check_titles(sections, path)
    notices: list[str] = []
    try:
        constants = tuple(read_rows(list(_table(sections, path, notices))))
    except TableError as error:
        raise _error(path, error.line, str(error)) from error
    others = [section for section in sections if section not in of_original]
    stops = tuple(_stops(others, path, notices))
    if of_original:
        notices.insert(0, f"{path}:{of_original[0].line}: {describe_original(of_original, constants, stops)}")
    return ProgramPage(path, text, constants, stops, (*_unknown_sections(others, path), *notices), bool(of_original))


def _check_titles(sections: Sequence[Section], path: Path) -> None:
    seen: set[str] = set()
    for section in sections:
        if section.name is None or section.is_prose:
            continue
        if section.name in seen:
            raise _error(path, section.line, f"a second section {section.name!r}; merge the two")
        seen.add(section.name)


def _unknown_sections(sections: Sequence[Section], path: Path) -> Iterator[str]:
    """A line for each section that only agents read; one that says when to stop says it in vain."""
    for section in sections:
        if section.name is None and section.title:
            words = f"{path}:{section.line}: section {quoted(section.title, MAX_QUOTE_CHARACTERS)} is none of "
            words += f"{', '.join(SECTIONS)}: agents read it, nothing else does"
            yield words + limits_in_vain([section])


def _table(sections: Sequence[Section], path: Path, notices: list[str]) -> Iterator[TableRow]:
    """The rows of the table of constants, which stands in its section or has its columns."""
    found = False
    other: TableRow | None = None  # header of another table in the section
    for section in sections:
        is_listed = False
        for row in section.rows:
            if row.is_header:
                is_listed = is_header(row) and section.name != "You must not change"
                if section.name == TABLE_SECTION and not is_listed:
                    other = row
            elif is_listed:
                found = True
                yield row
    own = next((section for section in sections if section.name == TABLE_SECTION), None)
    if other is not None and found:
        notices.append(f"{path}:{other.line}: another table, whose columns are not {' | '.join(COLUMNS[:2])}: not read")
    elif other is not None:
        raise TableError(other.line, f"the table's columns must be {' | '.join(COLUMNS)}")
    elif own is not None and not found:
        if own.rows:
            raise TableError(
                own.rows[0].line, f"the table has no row: below |{'|'.join(COLUMNS)}| list a constant each"
            )
        if (broken := next((block for block in own.blocks if block.text.count("|") > 1), None)) is not None:
            raise TableError(broken.line, "no table: its second line must be |---|---|---|, one for each column")


def _stops(sections: Sequence[Section], path: Path, notices: list[str]) -> Iterator[Stop]:
    """The items of the stopping list; raises ProgramError if there is one, and nothing in it is understood."""
    own = [section for section in sections if section.name == STOP_SECTION and not section.is_prose]
    prose = [section for section in sections if section.is_prose]
    stops: list[Stop] = []
    unclear: list[tuple[int, str]] = []
    for section in own or prose:
        for block in section.blocks:
            found, clauses = _read_block(block) if own else read_stops(block.lines)
            stops += found
            unclear += ((block.line, clause) for clause in clauses)
    if unclear and not stops:
        line, clause = unclear[0]
        raise _error(path, line, f"not understood: {clause!r}; understood are {STOP_EXAMPLES}")
    if own and not stops:
        remedy = f"write a list under it, or remove it to go on until you stop the run; understood are {STOP_EXAMPLES}"
        raise _error(path, own[0].line, f'"{own[0].title}" says nothing of when: {remedy}')
    if not stops:
        _refuse_hidden_list(sections, path)
        notices += (
            f'{path}:{block.line}: {quoted(stop.words)} ends nothing: only what is under "{STOP_SECTION}" does'
            for section in sections
            for block in section.texts
            for stop in read_stops(block.lines)[0]
            if isinstance(stop, Limit)
        )
    notices += (
        f"{path}:{line}: {quoted(clause, MAX_QUOTE_CHARACTERS)} is not understood and ends nothing; understood are "
        f"{STOP_EXAMPLES}"
        for line, clause in unclear
    )
    for section in prose:
        in_vain = [block for block in section.blocks if any(read_stops(block.lines))] if own else not stops
        if in_vain:
            said = quoted(section.title, MAX_QUOTE_CHARACTERS)
            notices.append(f'{path}:{section.line}: {said} ends nothing: only what is under "{STOP_SECTION}" does')
    yield from stops


def _read_block(block: Block) -> tuple[list[Stop], list[str]]:
    """As `read_stops`; an item of a list, or a time of day, is unclear even if nothing in it looks like a limit."""
    stops, unclear = read_stops(block.lines)
    is_meant = block.is_item or _WHEN.search(block.text)
    return (stops, unclear) if stops or unclear or not is_meant else ([], [block.text])


def _refuse_hidden_list(sections: Sequence[Section], path: Path) -> None:
    """Refuses a page without a stopping list that has its title, or items for it, where they end nothing."""
    remedy = f"write ## {STOP_SECTION} and a list below it"
    for section in sections:
        if section.name is None and section.title:
            for block in section.texts:
                if stops := read_stops(block.lines)[0]:
                    what = f"{stops[0].words!r} in section {quoted(section.title, MAX_QUOTE_CHARACTERS)}"
                    raise _error(path, block.line, f"{what} ends nothing: {remedy}")
        places = [(block.line, block.text) for block in section.blocks]
        places += [(row.line, cell) for row in section.rows for cell in row.cells]
        for line, text in places:
            if section_of(text) == STOP_SECTION:
                raise _error(path, line, f"{text!r} is no section here: {remedy}")


def _error(path: Path, line: int, message: str) -> ProgramError:
    return ProgramError(f"{path}:{line}: {message}")


class ProgramFile:
    """The last version of program.md that could be understood."""

    def __init__(
        self,
        path: Path,
        check: Callable[[ProgramPage], None] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """Reads it for the first time; a new version counts once it has not been written to for `settle_seconds`.

        `check` is asked of each new version, and raises a UserError for a page that the run cannot keep to. Raises
        ProgramError if the page is not there, or cannot be understood.
        """
        self._path = path
        self._check = check
        self._settle_seconds = settle_seconds
        self._program = read_program(path)
        self._complaints: tuple[str, ...] = ()

    @property
    def program(self) -> ProgramPage:
        """The last good version."""
        return self._program

    def refresh(
        self,
        asset: AssetKind,
        source: str,
        settled: Mapping[str, ConstantValue] | None,
        metric: str,
        complain: Callable[[str], None],
    ) -> Sequence[Constant]:
        """Reads the file again and returns the constants of the champion's `source` that may be moved.

        `complain` is told once of each new problem; see `ProgramPage.usable`.
        """
        broken: tuple[str, ...] = ()
        try:
            text = self._settled_text()
            if text != self._program.text:
                self._program = self._next_version(asset, text, source, settled, metric)
        except UserError as error:
            broken = (f"{error} (the version before stays in force)",)
        return self.fitting(asset, source, settled, complain, broken)

    def fitting(
        self,
        asset: AssetKind,
        source: str,
        settled: Mapping[str, ConstantValue] | None,
        complain: Callable[[str], None],
        broken: Sequence[str] = (),
    ) -> Sequence[Constant]:
        """As `refresh`, of the version in force; `broken` is what a later one suffers from."""
        space, misfits = self._program.usable(asset, source, settled)
        complaints = (*broken, *self._program.notices, *(f"{why}: the optimizer leaves it alone" for why in misfits))
        for complaint in complaints:
            if complaint not in self._complaints:
                complain(complaint)
        self._complaints = complaints
        return space

    def _settled_text(self) -> str:
        """The text, once it is not written to any more."""
        for _ in range(MOST_READINGS):
            text = read_page(self._path)
            if text == self._program.text:
                break
            try:
                age = time.time() - self._path.stat().st_mtime
            except OSError:
                break
            if not 0 <= age < self._settle_seconds:
                break
            time.sleep(self._settle_seconds - age)
        return text

    def _next_version(
        self, asset: AssetKind, text: str, source: str, settled: Mapping[str, ConstantValue] | None, metric: str
    ) -> ProgramPage:
        """A version that may come into force.

        Raises UserError if it must not: it is not whole, or has lost what carries limits.
        """
        before = self._program
        if before.text.startswith(text) and not text.endswith("\n") and before.text[len(text)] != "\n":
            raise ProgramError(f"{self._path}: ends in the middle of a line, as if half saved: save it again")
        program = parse_program(text, self._path)
        for section, lost in (
            (STOP_SECTION, before.stops and not program.stops),
            (TABLE_SECTION, before.constants and not program.constants),
        ):
            if lost:
                raise ProgramError(
                    f'{self._path}: what stood under "{section}" is gone: start the run again to do without'
                )
        if program.constants and before.usable(asset, source, settled)[0]:
            rows, misfits = program.usable(asset, source, settled)
            if not rows:
                raise ProgramError(f"{misfits[0]}; no row of the table fits")
        program.check_metric(metric)
        if self._check is not None:
            self._check(program)
        return program
