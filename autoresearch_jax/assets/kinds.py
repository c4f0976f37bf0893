"""The kinds by their names and suffixes, and how a run's settings name one; the kind of Python files."""

import ast
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from autoresearch_jax.assets import python_constants, python_size
from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError, ConstantValue
from autoresearch_jax.assets.text import HtmlKind, SqlKind, TextKind, compiled_pattern
from autoresearch_jax.assets.values import JsonKind, TomlKind, YamlKind
from autoresearch_jax.errors import UsageError
from autoresearch_jax.python_source import UNPARSABLE, docstring_of, parse_source
from autoresearch_jax.types import Scalar


@dataclass(frozen=True)
class PythonKind:
    """See `AssetKind`.

    Attributes:
      keeps_docstrings: whether it runs with them, so that they may be read.
    """

    noun: str = "Python file"
    keeps_docstrings: bool = True
    name = "python"
    unit = "syntax nodes"
    constants_pattern = None
    rule = "Compute arrays inside the functions: tables of numbers or texts in the source are refused."

    def check(self, text: str) -> None:
        with _syntax_errors():
            parse_source(text)

    def tree(self, text: str, blank: Collection[str] = ()) -> str:
        with _syntax_errors():
            module = ast.parse(text)
            python_constants.blank_values(module, blank)
            return ast.dump(module)

    def canonical(self, text: str) -> str:
        with _syntax_errors():
            module = parse_source(text)
            for node in ast.walk(module):
                if not self.keeps_docstrings and (docstring := docstring_of(node)) is not None:
                    docstring.value = ""
            return ast.dump(module)

    def size(self, text: str, values_of: Collection[str] = ()) -> int | None:
        return python_size.syntax_nodes(text, values_of)

    def carried_bytes(self, text: str, baseline: str, enough: int = 0) -> int:
        added = python_size.added_bytes(text, baseline)
        if added <= min(enough, python_size.FREE_NAME_BYTES):
            return added
        return python_size.literal_bytes(text, baseline)

    def constants(self, text: str) -> dict[str, ConstantValue]:
        with _syntax_errors():
            return python_constants.read_constants(text)

    def settable(self, text: str) -> dict[str, Scalar]:
        with _syntax_errors():
            return python_constants.settable_constants(text)

    def set_constants(self, text: str, values: Mapping[str, Scalar], *, anew: bool = False) -> str:
        with _syntax_errors():
            return python_constants.set_constants(text, values, anew=anew)


@contextmanager
def _syntax_errors() -> Iterator[None]:
    """Turns all by which Python's parser refuses a text into AssetSyntaxError."""
    try:
        yield
    except SyntaxError as error:
        raise AssetSyntaxError(error.lineno, error.msg) from error
    except UNPARSABLE as error:
        raise AssetSyntaxError(None, str(error) or type(error).__name__) from error


TRAINING_FILE = PythonKind("training file", keeps_docstrings=False)  # what a run edits whose settings name no kind
KINDS: Mapping[str, Any] = {
    kind.name: kind for kind in (PythonKind, SqlKind, TomlKind, YamlKind, JsonKind, HtmlKind, TextKind)
}
_SUFFIXES = {".py": "python", ".pyi": "python", ".yml": "yaml", ".htm": "html"}


def kind_of(file_name: str | PurePath, declared: str | None = None, constants_pattern: str | None = None) -> AssetKind:
    """The kind of an editable file.

    Args:
      file_name: its suffix tells the kind; a text where it is of none.
      declared: the kind's name; by default the suffix decides.
      constants_pattern: regular expression of a constant's line, with the groups `name` and `value`.

    Raises:
      UsageError: no such kind, no such pattern, or a pattern for a kind with constants of its own.
    """
    suffix = PurePath(file_name).suffix.lower()
    name = declared or _SUFFIXES.get(suffix, suffix.removeprefix("."))
    if declared is None and name not in KINDS:
        name = TextKind.name
    if name not in KINDS:
        raise UsageError(f"no kind {name!r} of file: there are {', '.join(KINDS)}")
    kind: AssetKind = KINDS[name]()
    if constants_pattern is None:
        return kind
    if not isinstance(kind, TextKind):
        raise UsageError(f"a {kind.noun} has constants by their names: leave the pattern of constants out")
    return replace(
        kind,
        constants_pattern=compiled_pattern(
            constants_pattern, lambda why: UsageError(f"the pattern of constants {constants_pattern!r} {why}")
        ),
    )


def guessed_kind(text: str) -> AssetKind:
    """Python where a text is that, else a text: for a finding, whose page does not name the kind."""
    try:
        TRAINING_FILE.check(text)
    except AssetSyntaxError:
        return TextKind()
    return TRAINING_FILE


def stored_kind(settings: Mapping[str, Scalar], key: str) -> AssetKind:
    """The kind that a run's settings name under a key, as `kind_words` wrote it."""
    words = settings.get(key)
    if words in (None, kind_words(TRAINING_FILE)):
        return TRAINING_FILE
    found = json.loads(str(words))
    kind = KINDS[found["kind"]](noun=found["noun"])
    return kind if found["constants"] is None else replace(kind, constants_pattern=found["constants"])


def kind_words(kind: AssetKind) -> str:
    """A kind as JSON."""
    return json.dumps({"kind": kind.name, "noun": kind.noun, "constants": kind.constants_pattern})
