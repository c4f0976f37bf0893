"""program.md's table of constants: what its cells mean, and whether a row fits the constants of an asset."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from autoresearch_jax.assets.base import CONSTANT_NAME, ConstantValue
from autoresearch_jax.assets.merging import known_constants, settable_names
from autoresearch_jax.engine.page_sections import TableRow
from autoresearch_jax.proposers.base import Brief, Objection
from autoresearch_jax.proposers.space import (
    Choices,
    Constant,
    FloatRange,
    IntRange,
    Value,
    Values,
    parse_value,
)
from autoresearch_jax.sanitize import clean_line

MAX_VALUE_CHARACTERS = 60
COLUMNS = ("constant", "values", "note")

_RANGE = re.compile(r"(?P<low>\S+)\s*\.\.\s*(?P<high>\S+)(?P<log>\s+log)?", re.IGNORECASE)
_CHOICE = re.compile(r"""\s*("[^"]*"|'[^']*'|[^,]+)\s*(?:,|$)""")
_TRUTH = {"true": True, "false": False}
NO_CONSTANTS = "there are none: name them as docs/reference/program-page.md says for its kind, or take the row out"
_VALUES_HELP = "expected LOW .. HIGH, LOW .. HIGH log, or a list such as 1, 2, 4"


class TableError(Exception):
    """A row cannot be read, or does not fit; the message is one line, without the file and the line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def is_header(row: TableRow) -> bool:
    """True for the header of a table of constants."""
    return row.is_header and tuple(cell.lower() for cell in row.cells[:2]) == COLUMNS[:2]


def read_rows(rows: Sequence[TableRow]) -> Iterator[Constant]:
    """The rows of a table of constants, without its header.

    Raises:
      TableError: one cannot be understood.
    """
    names: set[str] = set()
    for row in rows:
        name, values, note = (*row.cells, "", "")[:3]
        if not CONSTANT_NAME.fullmatch(name):
            raise TableError(row.line, f"{name!r} is not the name of a constant")
        if name in names:
            raise TableError(row.line, f"a second row for {name}; keep one")
        names.add(name)
        try:
            yield Constant(name, _values(values), note, row.line)
        except ValueError as error:
            raise TableError(row.line, f"{name}: {error}") from error


def _values(text: str) -> Values:
    """What a cell of the column `values` allows; raises ValueError if it cannot be understood, and why."""
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


def fit_row(
    row: Constant,
    constants: Mapping[str, ConstantValue],
    settled: Mapping[str, ConstantValue] | None = None,
    settable: Collection[str] | None = None,
) -> Constant:
    """A row as it fits a source with these constants: whole ends are real ones for a real constant.

    Args:
      settled: the values that the human or the optimizer gave last. The source may have others, of an agent's: a whole
        number is real then where a real one stood, but one outside the row does not fit. By default the source's own.
      settable: constants that can be set in the source, see `settable_constants`; by default all.

    Raises:
      TableError: the constant is missing, cannot be moved, or has a value that the row does not allow.
    """
    name = row.name
    if name not in constants:
        known = f"there are: {', '.join(constants)}" if constants else NO_CONSTANTS
        raise TableError(row.line, f"no constant {name} in the editable file; {known}")
    value = constants[name]
    stood = value if settled is None else settled.get(name, value)
    if value is None or isinstance(value, tuple):
        raise TableError(row.line, f"{name} is {_show(value)}, which is not one number, string or truth value")
    if settable is not None and name not in settable:
        raise TableError(row.line, f"{name} is set more than once in the editable file, or to no finite number")
    if type(value) is int and type(stood) is float:
        value = float(value)
    fitted = row
    if isinstance(value, bool) and isinstance(row.values, Choices):  # other formats than Python write them small
        choices = Choices(tuple(_TRUTH.get(str(choice).lower(), choice) for choice in row.values.values))
        fitted = Constant(name, choices, row.note, row.line)
    if not isinstance(row.values, Choices):
        if isinstance(value, bool | str):
            raise TableError(row.line, f"{name} is {_show(value)}, which has no range; list its values instead")
        if isinstance(value, int) and isinstance(row.values, FloatRange):
            raise TableError(row.line, f"{name} is the whole number {value}; give whole numbers, not {row.values}")
        if type(stood) is float and isinstance(row.values, IntRange):
            fitted = Constant(
                name, FloatRange(float(row.values.low), float(row.values.high), row.values.log), row.note, row.line
            )
    is_agents = type(value) is not type(stood) or value != stood
    if is_agents and not fitted.values.contains(value):
        raise TableError(row.line, f"{name} is {_show(constants[name])} now, not within {row.values}")
    return fitted


def table_objection(brief: Brief, source: str) -> Objection | None:
    """What the optimizer could not move any more in a proposed source, other than values of the champion's."""
    constants, settable = known_constants(brief.asset, source), settable_names(brief.asset, source)
    lost: list[str] = []
    for row in brief.space:
        try:
            fit_row(row, constants, brief.champion_constants, settable)
        except TableError as error:
            lost.append(str(error))
    if not lost:
        return None
    return Objection(
        f"an optimizer moves the constants in program.md's table, and could not any more: {'; '.join(lost)}. Keep each "
        "in its place, with one value that its row allows; leave the text as it is if the idea needs this",
        repeats=True,
        may_be_meant=True,
    )


def is_within(values: Values, value: ConstantValue) -> bool:
    """True if a row allows a value."""
    return isinstance(value, int | float | str) and values.contains(value)


def _show(value: ConstantValue) -> str:
    """A value as a source has it, in one short line: a candidate may have written it."""
    return clean_line(repr(value), MAX_VALUE_CHARACTERS)


def _is_number(value: Value | None) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
