"""A stand-in for `autoresearch_jax.assets` until it is there: identity of a text by kind."""

import ast
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.errors import UserError
from autoresearch_jax.python_source import UNPARSABLE, tree_digest


@dataclass(frozen=True)
class StandInKind:
    """See `autoresearch_jax.assets.base.AssetKind`."""

    name: str

    def check(self, text: str) -> None:
        """Raises UserError for a text that is not of its kind."""
        parsers: dict[str, Callable[[str], object]] = {"python": ast.parse, "toml": tomllib.loads, "json": json.loads}
        try:
            if self.name in parsers:
                parsers[self.name](text)
        except SyntaxError as error:
            raise UserError(f"line {error.lineno}: {error.msg}") from error
        except UNPARSABLE as error:
            raise UserError(str(error)) from error

    def canonical(self, text: str) -> str:
        """Equal for texts that say the same."""
        return (tree_digest(text) if self.name == "python" else None) or "\n".join(map(str.rstrip, text.splitlines()))


def kind_of(file_name: str, declared: str | None, constants_pattern: str | None) -> StandInKind:
    """The kind of a file."""
    suffixes = {".py": "python", ".sql": "sql", ".toml": "toml", ".json": "json", ".html": "html"}
    return StandInKind(declared or suffixes.get(Path(file_name).suffix, "text"))
