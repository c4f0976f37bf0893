"""The constants that an optimizer may move, and the values each may take."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

Value = int | float | str | bool


@dataclass(frozen=True)
class FloatRange:
    """Real numbers from `low` to `high`, both included; `log` spreads them evenly over magnitudes."""

    low: float
    high: float
    log: bool = False

    def contains(self, value: Value) -> bool:
        """True for a number between the ends."""
        return _is_number(value) and self.low <= float(value) <= self.high

    def __str__(self) -> str:
        return _range_text(self.low, self.high, self.log)


@dataclass(frozen=True)
class IntRange:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int
    log: bool = False

    def contains(self, value: Value) -> bool:
        """True for a whole number between the ends."""
        return _is_number(value) and isinstance(value, int) and self.low <= value <= self.high

    def __str__(self) -> str:
        return _range_text(self.low, self.high, self.log)


@dataclass(frozen=True)
class Choices:
    """A few values, in no order."""

    values: tuple[Value, ...]

    def contains(self, value: Value) -> bool:
        """True for one of the values; 1, 1.0 and True are three."""
        return any(same(value, choice) for choice in self.values)

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)


Values = FloatRange | IntRange | Choices


@dataclass(frozen=True)
class Constant:
    """One row of program.md's table."""

    name: str  # of a top-level constant of the editable file
    values: Values  # what it may be set to
    note: str = ""  # the human's word on it
    line: int = field(default=0, compare=False)  # where in program.md it stands, from 1


def same(one: object, other: object) -> bool:
    """Equality that tells 1, 1.0 and True apart, as the source of a program does."""
    return type(one) is type(other) and one == other


def parse_value(text: str) -> Value:
    """The number, truth value or string that `text` stands for; quotes around a string may be left out."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError):  # TypeError: {[]} is an expression too
        return text.strip()
    return value if isinstance(value, int | float | str | bool) else text.strip()


def format_value(value: object) -> str:
    """A value as people read it: no more digits than it has, no quotes."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def format_moves(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """The values that are another after, as people read them: "LR 0.5 -> 0.1, DEPTH = 4" where DEPTH is new."""
    moved = ((name, value) for name, value in after.items() if not same(value, before.get(name)))
    return ", ".join(
        f"{name} {format_value(before[name])} -> {format_value(value)}"
        if name in before
        else f"{name} = {format_value(value)}"
        for name, value in moved
    )


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _range_text(low: float, high: float, log: bool) -> str:
    return f"{format_value(low)} .. {format_value(high)}" + (" log" if log else "")
