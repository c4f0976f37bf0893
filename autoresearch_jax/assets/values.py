"""JSON, TOML and YAML files: identity by value, constants by dotted keys, set where they stand."""

import json
import math
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from autoresearch_jax.assets.base import (
    AssetSyntaxError,
    ConstantError,
    ConstantValue,
    bytes_held,
    same_value,
)
from autoresearch_jax.types import Scalar

# Of one text, as YAML's aliases can stand for more than any memory holds.
MAX_VALUES, MAX_CHARACTERS = 1 << 18, 1 << 26
_PART = re.compile(r"[A-Za-z_][\w-]*")  # of a dotted name
_PLAIN_YAML = re.compile(r"[A-Za-z_][\w./-]*(?: [\w./-]+)*")
_TOML_LINE = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)
_JSON_BLANK = re.compile(r"[ \t\n\r]*")
_JSON_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,\]}]+', re.DOTALL)

Span = tuple[int, int]


@dataclass(frozen=True)
class _ValueKind:
    """What the three have in common: a text stands for a value of mappings, lists and scalars.

    Mappings have no order, as these formats say.
    """

    noun: str
    unit = "nodes"
    rule = ""
    constants_pattern = None

    def check(self, text: str) -> None:
        self._written(text)

    def tree(self, text: str, blank: Collection[str] = ()) -> str:
        return json.dumps(self._written(text, blank), sort_keys=True)

    def canonical(self, text: str) -> str:
        return self.tree(text)

    def size(self, text: str, values_of: Collection[str] = ()) -> int | None:
        try:
            return _nodes(self._written(text, values_of))
        except AssetSyntaxError:
            return None

    def carried_bytes(self, text: str, baseline: str, enough: int = 0) -> int:
        return 0

    def constants(self, text: str) -> dict[str, ConstantValue]:
        self._written(text)  # which bounds how many there are
        return dict(_constants(self._load(text)))

    def settable(self, text: str) -> dict[str, Scalar]:
        spans = self._places(text)
        return {
            name: value
            for name, value in self.constants(text).items()
            if name in spans
            and not isinstance(value, tuple)
            and not (isinstance(value, float) and not math.isfinite(value))
        }

    def set_constants(self, text: str, values: Mapping[str, Scalar], *, anew: bool = False) -> str:
        current = self.settable(text)
        if unknown := next((name for name in values if name not in current), None):
            raise ConstantError(f"no constant {unknown} that can be set; there are {', '.join(current)}")
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConstantError(f"{name} cannot be set to {value}: a constant is a finite number")
        new = {name: value for name, value in values.items() if anew or not same_value(current[name], value)}
        if not new:
            return text
        changed = self._replace(text, new)
        try:
            found = self.constants(changed)
        except AssetSyntaxError:
            found = {}
        for name, value in new.items():
            if name not in found or not same_value(found[name], value):
                raise ConstantError(f"{name} cannot be set to {value!r} where it stands")
        return changed

    def _written(self, text: str, blank: Collection[str] = ()) -> Any:
        """The value with scalars as `repr` writes them, so that 1, 1.0, True and "1" differ; blank ones as None."""
        left, characters_left = MAX_VALUES, MAX_CHARACTERS
        open_: set[int] = set()

        def spelt(scalar: Any) -> str:
            nonlocal characters_left
            words = repr(scalar)
            characters_left -= len(words)
            if characters_left < 0:
                raise AssetSyntaxError(None, f"it stands for more than {MAX_CHARACTERS:,} characters")
            return words

        def written(value: Any, name: str | None) -> Any:
            nonlocal left
            left -= 1 + (len(value) if isinstance(value, set) else 0)
            if left < 0 or id(value) in open_:
                raise AssetSyntaxError(None, f"it stands for more than {MAX_VALUES:,} values")
            if name in blank:
                return None
            if isinstance(value, set):  # whose order changes with each process
                return {"set": sorted(map(spelt, value))}
            if not isinstance(value, dict | list | tuple):
                return spelt(value)
            open_.add(id(value))
            if isinstance(value, dict):
                found: Any = {spelt(key): written(item, _dotted(name, key)) for key, item in value.items()}
            else:  # a tuple is a pair of YAML's !!pairs, or a tag and its value
                found = [*(["pair"] if isinstance(value, tuple) else []), *(written(item, None) for item in value)]
            open_.discard(id(value))
            return found

        try:
            return written(self._load(text), "")
        except RecursionError as error:
            raise AssetSyntaxError(None, "it is nested too deeply") from error
        except ValueError as error:
            raise AssetSyntaxError(None, "a number has too many digits") from error

    def _load(self, text: str) -> Any:
        """The value; raises AssetSyntaxError."""
        raise NotImplementedError

    def _places(self, text: str) -> Mapping[str, Span]:
        """Where scalars with a dotted name stand; not those that have several places or that cannot be set."""
        raise NotImplementedError

    def _replace(self, text: str, values: Mapping[str, Scalar]) -> str:
        """The text with these values at their places; raises ConstantError."""
        places = self._places(text)
        for name in sorted(values, key=lambda name: places[name], reverse=True):
            start, end = places[name]
            text = text[:start] + self._spelt(values[name], text[start:end]) + text[end:]
        return text

    def _spelt(self, value: Scalar, before: str) -> str:
        """A value as the format has it, in place of another."""
        return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class JsonKind(_ValueKind):
    """See `AssetKind`."""

    noun: str = "JSON file"
    name = "json"

    def _load(self, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise AssetSyntaxError(error.lineno, error.msg) from error
        except (ValueError, RecursionError) as error:
            raise AssetSyntaxError(None, str(error)) from error

    def _places(self, text: str) -> Mapping[str, Span]:
        self._load(text)
        found: dict[str, list[Span]] = {}
        _scan_json(text, 0, "", found)
        return {name: spans[0] for name, spans in found.items() if len(spans) == 1}


def _scan_json(text: str, at: int, name: str | None, found: dict[str, list[Span]]) -> int:
    """Enters the places of the scalars of a valid text from one place on; returns the place after the value."""

    def after_blank(at: int) -> int:
        match = _JSON_BLANK.match(text, at)
        assert match is not None
        return match.end()

    at = after_blank(at)
    opened = text[at]
    if opened not in "{[":
        scalar = _JSON_SCALAR.match(text, at)
        assert scalar is not None
        if name is not None:
            found.setdefault(name, []).append(scalar.span())
        return scalar.end()
    at = after_blank(at + 1)
    while text[at] not in "}]":
        inner = None
        if opened == "{":
            key = _JSON_SCALAR.match(text, at)
            assert key is not None
            inner = _dotted(name, json.loads(key[0]))
            at = after_blank(key.end()) + 1  # the colon
        at = after_blank(_scan_json(text, at, inner, found))
        if text[at] == ",":
            at = after_blank(at + 1)
    return at + 1


@dataclass(frozen=True)
class TomlKind(_ValueKind):
    """See `AssetKind`."""

    noun: str = "TOML file"
    name = "toml"

    def _load(self, text: str) -> Any:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            match = _TOML_LINE.fullmatch(str(error))
            line = None if match is None else int(match[2] or text.rstrip("\n").count("\n") + 1)
            raise AssetSyntaxError(line, str(error) if match is None else match[1]) from error
        except (ValueError, RecursionError) as error:
            raise AssetSyntaxError(None, str(error)) from error

    def _places(self, text: str) -> Mapping[str, Span]:
        return {name: (0, 0) for name, _ in _constants(self._load(text))}  # a key has one place

    def _replace(self, text: str, values: Mapping[str, Scalar]) -> str:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        try:
            document: Any = tomlkit.parse(text)
            for name, value in values.items():
                if value is None:
                    raise ConstantError(f"{name}: TOML has no word for nothing")
                *tables, last = name.split(".")
                table = document
                for part in tables:
                    table = table[part]
                table[last] = value
            return tomlkit.dumps(document)
        except (TOMLKitError, ValueError, TypeError, RecursionError) as error:
            raise ConstantError(f"{', '.join(values)}: no value can be set there: {error}") from error


@dataclass(frozen=True)
class YamlKind(_ValueKind):
    """See `AssetKind`; as PyYAML's safe loader reads it, one document."""

    noun: str = "YAML file"
    name = "yaml"

    def _load(self, text: str) -> Any:
        loader = None
        try:
            loader = _YamlLoader(text)
            return loader.get_single_data()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = ": ".join(filter(None, (error.context, error.problem)))
            raise AssetSyntaxError(None if mark is None else mark.line + 1, words) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise AssetSyntaxError(line, f"the character {error.character!r} is not allowed") from error
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise AssetSyntaxError(None, str(error)) from error
        finally:
            if loader is not None:
                loader.dispose()

    def _places(self, text: str) -> Mapping[str, Span]:
        self._load(text)
        found: dict[str, list[Span]] = {}

        def look(node: yaml.Node | None, name: str | None, depth: int) -> None:
            if isinstance(node, yaml.MappingNode) and not (name and text[node.start_mark.index] in "&!"):
                for key, value in node.value:
                    if key.tag == "tag:yaml.org,2002:str":
                        look(value, _dotted(name, key.value), depth + 1)
            elif isinstance(node, yaml.ScalarNode) and name is not None and node.style not in ("|", ">"):
                span = node.start_mark.index, node.end_mark.index
                if text[span[0] : span[0] + 1] not in ("&", "!"):  # an anchor would be lost
                    found.setdefault(name, []).append(span)

        look(yaml.compose(text, _YamlLoader), "", 0)
        return {name: spans[0] for name, spans in found.items() if len(spans) == 1}

    def _spelt(self, value: Scalar, before: str) -> str:
        if isinstance(value, str):
            is_plain = before[:1] not in ("'", '"') and _PLAIN_YAML.fullmatch(value)
            spelt = value if is_plain and yaml.safe_load(value) == value else json.dumps(value, ensure_ascii=False)
        elif isinstance(value, float) and "." not in repr(value):
            spelt = repr(value).replace("e", ".0e")  # YAML 1.1 takes 1e-05 for a word
        else:
            spelt = json.dumps(value)
        return spelt if before else f" {spelt}"  # nothing stood behind the colon


class _YamlLoader(yaml.SafeLoader):
    """Takes a value with an unknown tag for the pair of its tag and the value."""


def _tagged(loader: _YamlLoader, node: yaml.Node) -> tuple[str, Any]:
    if isinstance(node, yaml.MappingNode):
        return node.tag, loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return node.tag, loader.construct_sequence(node, deep=True)
    return node.tag, node.value


_YamlLoader.add_constructor(None, _tagged)


def _dotted(name: str | None, key: object) -> str | None:
    """The name of what a mapping with this name has under a key; None where it has none. The whole's is empty."""
    if name is None or not isinstance(key, str) or not _PART.fullmatch(key):
        return None
    return f"{name}.{key}" if name else key


def _constants(value: Any, name: str = "") -> Iterator[tuple[str, ConstantValue]]:
    """Scalars that have a dotted name, and lists of scalars as tuples; no strings of several lines."""
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        inner = _dotted(name, key)
        if inner is None:
            continue
        if isinstance(item, dict):
            yield from _constants(item, inner)
        elif _is_scalar(item):
            yield inner, item
        elif isinstance(item, list) and all(map(_is_scalar, item)):
            yield inner, tuple(item)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and "\n" not in value)


def _nodes(written: Any) -> int:
    """Keys, collections, and a node for each byte of a scalar, so that a text in a string is no shorter."""
    if isinstance(written, dict):
        return 1 + sum(1 + _nodes(item) for item in written.values())
    if isinstance(written, list):
        return 1 + sum(map(_nodes, written))
    return 1 if written is None else max(1, _scalar_bytes(written))


def _scalar_bytes(written: str) -> int:
    """Bytes that a scalar holds, of its `repr`."""
    for read in (int, float):
        try:
            return bytes_held(read(written))
        except ValueError:
            continue
    return len(written.encode("utf-8", "surrogatepass")) - 2 if written[:1] in "'\"" else 1
