"""What the loop asks of a kind of editable file: what a text says, how large it is, its constants."""

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Protocol

from autoresearch_jax.errors import UserError
from autoresearch_jax.types import Scalar

ConstantValue = Scalar | tuple[Scalar, ...]
CONSTANT_NAME = re.compile(r"[^\W\d]\w*(?:[.-]\w+)*")  # dotted where it stands in a table, as in TOML


class AssetSyntaxError(UserError):
    """A text is none of its kind.

    Attributes:
      line: from 1; None where the parser names none.
      message: what the parser says, without the line.
    """

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line
        self.message = message


class ConstantError(UserError):
    """A constant cannot be set: absent, ambiguous, or a value that the text cannot spell."""


class AssetKind(Protocol):
    """How a kind of text is read, compared and measured. Equal kinds are equal objects, and hashable.

    All methods raise AssetSyntaxError for a text that is not of the kind, but for `size` and `carried_bytes`.
    """

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str:
        """As task.toml names it, such as "python"."""
        ...

    @property
    def noun(self) -> str:
        """What people and agents call the file, such as "training file"."""
        ...

    @property
    def rule(self) -> str:
        """What agents that edit the file are told to keep to; empty for nothing."""
        ...

    @property
    def constants_pattern(self) -> str | None:
        """A regular expression with the groups `name` and `value`; None for a kind that has constants of its own."""
        ...

    def check(self, text: str) -> None:
        """Raises AssetSyntaxError unless the text parses."""
        ...

    def tree(self, text: str, blank: Collection[str] = ()) -> str:
        """What a text says, written out: equal for texts that differ in comments and layout alone.

        Args:
          blank: constants whose values do not count.
        """
        ...

    def canonical(self, text: str) -> str:
        """The text's identity: as `tree`, and a training file's docstrings, without which it runs, do not count."""
        ...

    def size(self, text: str, values_of: Collection[str] = ()) -> int | None:
        """How complex a text is, in `unit`; None where it does not parse or the count would mean nothing.

        Args:
          values_of: constants whose values count one each.
        """
        ...

    @property
    def unit(self) -> str:
        """What `size` counts, such as "syntax nodes"."""
        ...

    def carried_bytes(self, text: str, baseline: str, enough: int = 0) -> int:
        """Bytes of data that a text carries beyond its baseline, where the kind has a limit of these; else 0.

        Args:
          enough: up to this many, a bound that is quick to compute may be returned in place of the number.
        """
        ...

    def constants(self, text: str) -> dict[str, ConstantValue]:
        """Values by name, in the order of the text."""
        ...

    def settable(self, text: str) -> dict[str, Scalar]:
        """The constants that `set_constants` can set: one place each, with one value."""
        ...

    def set_constants(self, text: str, values: Mapping[str, Scalar], *, anew: bool = False) -> str:
        """The text with new values for some of its constants; comments, layout and all else stay.

        Args:
          anew: whether a constant that has the value already is written again, so that equal values are spelt alike.

        Raises:
          ConstantError: a name is absent or has several places, or the value cannot be written there.
        """
        ...


def same_value(one: ConstantValue, other: ConstantValue) -> bool:
    """True of values that a program cannot tell apart: 1, 1.0 and True are three, in a tuple too."""
    return repr(one) == repr(other)


def bytes_held(value: object) -> int:
    """Bytes that a literal's value holds: a string's UTF-8, a number's digits; 1 for others."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, int):
        return (value.bit_length() + 7) // 8
    if isinstance(value, complex):
        return bytes_held(value.imag)  # of a literal, the other part is 0
    return _float_bytes(value) if isinstance(value, float) else 1


def _float_bytes(value: float) -> int:
    """Bytes of a float's decimal digits and exponent together: 1 for 0.003, 8 for one of 17 digits."""
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    if not isinstance(exponent, int):  # infinity
        return 1
    bits = int("".join(map(str, digits))).bit_length() + (exponent.bit_length() + 1 if exponent else 0)
    return (bits + 7) // 8
