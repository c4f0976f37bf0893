"""Python files: identity by syntax tree, size in its nodes, constants by their UPPER_CASE names."""

import ast
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from autoresearch_jax.assets import python_constants, python_size
from autoresearch_jax.assets.base import AssetSyntaxError, ConstantValue
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
