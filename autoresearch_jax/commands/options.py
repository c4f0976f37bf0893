"""Options declared once: dataclasses whose fields become flags and are read back; and those that commands share."""

import ast
import enum
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from operator import ge, gt, le
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from autoresearch_jax.assets.base import CONSTANT_NAME
from autoresearch_jax.commands.paths import expand_home
from autoresearch_jax.errors import UsageError
from autoresearch_jax.types import Scalar

MAX_SEED = 2**63 - 1  # what SQLite can hold
NONE = "none"  # as a number: the default of flags that have none
_SPEC = "option"  # key in a field's metadata
T = TypeVar("T")


class InRun(enum.Enum):
    """What holds for a flag of a run in later commands on that run; where it is not typed all take it over."""

    BOUND = enum.auto()  # another value is refused: scores would not be comparable, or the run could not go on
    FREE = enum.auto()  # another value is taken as typed
    MACHINE = enum.auto()  # so is that of a flag of this machine, which no report shows


@dataclass(frozen=True)
class _Spec:
    """The metadata of a field; see `option`."""

    help: str
    flag: str | None
    least: float | None
    above: float | None
    most: float | None
    choices: tuple[str, ...]
    repeated: bool
    hint: str
    path: bool
    in_run: InRun | None

    def check(self, value: float | None) -> bool:
        """Refuses a number out of bounds.

        Raises:
          ValidationError: it is one.
        """
        if value is None:
            return True
        bounds = [("at least", self.least, ge), ("above", self.above, gt), ("at most", self.most, le)]
        given = [(word, bound, holds) for word, bound, holds in bounds if bound is not None]
        if math.isfinite(value) and all(holds(value, bound) for _, bound, holds in given):
            return True
        words = " and ".join(f"{word} {bound:g}" for word, bound, _ in given)
        raise flags.ValidationError(f"must be {words or 'a finite number'}{self.hint and f', {self.hint}'}")


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    repeated: bool = False,
    hint: str = "",
    path: bool = False,
    in_run: InRun | None = None,
) -> Any:
    """A dataclass field that is a flag.

    Its type is bool, int, float, str, Path or a tuple of int or of str, or one of these or None.

    Args:
      default: of the field and of the flag.
      help: for `--help`.
      flag: its name, where that cannot be the field's.
      least: the smallest number allowed.
      above: numbers must be larger.
      most: the largest number allowed.
      choices: the only words allowed.
      repeated: a tuple is given by the flag again and again, instead of by commas.
      hint: ends the message about a number out of bounds, such as "such as 600".
      path: whether a str begins with a path, as every Path does, so that it may begin with `~`.
      in_run: of a flag that a run keeps; None for one that belongs to a single command.
    """
    spec = _Spec(help, flag, least, above, most, tuple(choices), repeated, hint, path, in_run)
    return field(default=default, metadata={_SPEC: spec})


def format_option(*more: str) -> Any:
    """The option --format; `more` are choices beside text and json."""
    return option("text", "how to print it", choices=("text", "json", *more))


def tensorboard_option() -> Any:
    """The option --tensorboard."""
    return option(
        False, "write each trial's loss, speed, score and constants for TensorBoard, as they come", in_run=InRun.FREE
    )


def define_options(flag_values: flags.FlagValues, options_type: type) -> None:
    """Defines a flag for each option of a dataclass, and of dataclasses that are its fields."""
    for own, type_ in _typed_fields(options_type):
        if _SPEC in own.metadata:
            _define(flag_values, own, type_)
        else:
            define_options(flag_values, type_)


def read_options(flag_values: flags.FlagValues, options_type: type[T]) -> T:
    """The dataclass whose options were defined, with the flags' values.

    Raises:
      UsageError: a value makes no sense; the message names the flag.
    """
    values = {}
    for own, type_ in _typed_fields(options_type):
        if _SPEC in own.metadata:
            name = own.metadata[_SPEC].flag or own.name
            value = flag_values[name].value
            if isinstance(value, str) and (type_ is Path or own.metadata[_SPEC].path):
                value = expand_home(name, value)
            values[own.name] = _convert(name, value, type_)
        else:
            values[own.name] = read_options(flag_values, type_)
    return options_type(**values)


def describe_options(options_type: type) -> list[tuple[str, str, str]]:
    """Name, default and meaning of each option, in their order; the default is empty where it is None."""
    found: list[tuple[str, str, str]] = []
    for own, type_ in _typed_fields(options_type):
        if _SPEC not in own.metadata:
            found += describe_options(type_)
            continue
        spec: _Spec = own.metadata[_SPEC]
        default = ",".join(map(str, own.default)) if isinstance(own.default, tuple) else own.default
        if isinstance(default, bool):
            default = str(default).lower()
        named = f"{'|'.join(spec.choices)}: {spec.help}" if spec.choices else spec.help
        found.append((spec.flag or own.name, "" if default is None else str(default), named))
    return found


@dataclass(frozen=True)
class GivenFlag:
    """A flag with the value that it has; `texts` give it, more than one where the flag is given again and again."""

    name: str
    value: Any
    texts: tuple[str, ...]
    repeated: bool
    in_run: InRun | None
    is_default: bool

    @property
    def words(self) -> list[str]:
        """As a shell takes it; nothing for no value."""
        return [f"--{self.name}={text}" for text in self.texts]


def list_flags(options: Any) -> Iterator[GivenFlag]:
    """The flags of options in their order, also those with their default."""
    for own, type_ in _typed_fields(type(options)):
        value = getattr(options, own.name)
        if _SPEC not in own.metadata:
            yield from list_flags(value)
            continue
        spec: _Spec = own.metadata[_SPEC]
        if value is None:
            texts: tuple[str, ...] = ()
        elif typing.get_origin(type_) is tuple:
            texts = tuple(map(str, value)) if spec.repeated else (",".join(map(str, value)),)
        else:
            texts = (str(value).lower() if isinstance(value, bool) else str(value),)
        is_default = value is None or value == own.default
        yield GivenFlag(spec.flag or own.name, value, texts, spec.repeated, spec.in_run, is_default)


def given_flags(options: Any, *, kept: Collection[InRun] = tuple(InRun)) -> list[str]:
    """The flags, as `--name=value`, that give these options, of those that a run keeps; defaults are left out."""
    return [word for flag in list_flags(options) if flag.in_run in kept and not flag.is_default for word in flag.words]


def kept_flags(options_type: type) -> dict[str, InRun]:
    """The flags of a dataclass of options that a run keeps."""
    found: dict[str, InRun] = {}
    for one in option_types(options_type):
        for own in fields(one):
            spec: _Spec | None = own.metadata.get(_SPEC)
            if spec is not None and spec.in_run is not None:
                found[spec.flag or own.name] = spec.in_run
    return found


def option_types(options_type: type) -> Iterator[type]:
    """A dataclass of options, and the dataclasses that are its fields."""
    yield options_type
    for own, type_ in _typed_fields(options_type):
        if _SPEC not in own.metadata:
            yield from option_types(type_)


def options_table(options_type: type) -> str:
    """The options as a Markdown table."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for name, default, meaning in describe_options(options_type):
        cells = (f"`--{name}`", default and f"`{default}`", meaning)
        lines.append("".join(f"| {cell.replace('|', chr(92) + '|')} " for cell in cells) + "|")
    return "\n".join(lines)


def _typed_fields(options_type: type) -> Iterator[tuple[Field[Any], Any]]:
    """The fields with their types, `| None` left out."""
    hints = typing.get_type_hints(options_type)
    for own in fields(options_type):
        type_ = hints[own.name]
        if typing.get_origin(type_) in (types.UnionType, typing.Union):
            (type_,) = (one for one in typing.get_args(type_) if one is not type(None))
        assert _SPEC in own.metadata or is_dataclass(type_), f"{options_type.__name__}.{own.name} is no option"
        yield own, type_


def _define(flag_values: flags.FlagValues, own: Field[Any], type_: Any) -> None:
    spec: _Spec = own.metadata[_SPEC]
    name, help = spec.flag or own.name, spec.help
    default: Any = own.default
    if isinstance(default, tuple):
        default = list(map(str, default))
    if spec.choices:
        flags.DEFINE_enum(name, default, list(spec.choices), help, flag_values=flag_values)
    elif typing.get_origin(type_) is tuple:
        define: Any = flags.DEFINE_multi_string if spec.repeated else flags.DEFINE_list
        define(name, default, help, flag_values=flag_values)
    elif type_ in (int, float):
        parser: flags.ArgumentParser[Any] = flags.IntegerParser() if type_ is int else flags.FloatParser()
        flags.DEFINE(_OrNone(parser) if default is None else parser, name, default, help, flag_values=flag_values)
        flags.register_validator(name, spec.check, flag_values=flag_values)
    else:
        define = flags.DEFINE_boolean if type_ is bool else flags.DEFINE_string
        define(name, str(default) if isinstance(default, Path) else default, help, flag_values=flag_values)


class _OrNone(flags.ArgumentParser[float | None]):
    """Also takes "none" for a number, so that a run's later commands can do without one that it was begun with."""

    def __init__(self, parser: flags.ArgumentParser[Any]) -> None:
        super().__init__()
        self._parser = parser

    def parse(self, argument: Any) -> float | None:
        return None if argument == NONE else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


def _convert(name: str, value: Any, type_: Any) -> Any:
    if value is None:
        return None
    if typing.get_origin(type_) is tuple:
        element = typing.get_args(type_)[0]
        try:
            return tuple(element(word) for word in value)
        except ValueError as error:
            raise UsageError(f"--{name}={','.join(value)}: expected whole numbers, by commas") from error
    return Path(value) if type_ is Path else value


@dataclass(frozen=True)
class ConstantsOptions:
    """Constants of the training file with other values than it comes with."""

    settings: tuple[str, ...] = option(
        (),
        "NAME=VALUE: gives a constant of the training file another value; may be repeated",
        flag="set",
        repeated=True,
        in_run=InRun.BOUND,
    )

    def __post_init__(self) -> None:
        parse_settings(self.settings)

    @property
    def constants(self) -> Mapping[str, Scalar]:
        """The values, by name."""
        return parse_settings(self.settings)


def parse_settings(settings: Sequence[str]) -> dict[str, Scalar]:
    """Values of "NAME=VALUE" settings: Python literals, or the text itself where it is none.

    Raises:
      UsageError: a setting is not of that form.
    """
    values: dict[str, Scalar] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (equals and CONSTANT_NAME.fullmatch(name)):
            raise UsageError(f"--set {setting}: expected NAME=VALUE")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # as its documentation warns
            values[name] = text
    return values
