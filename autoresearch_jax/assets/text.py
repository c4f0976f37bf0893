"""SQL, HTML and any other text: identity by what a parser makes of it, constants by a declared pattern."""

import ast
import bisect
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any

from autoresearch_jax.assets.base import (
    AssetSyntaxError,
    ConstantError,
    ConstantValue,
    bytes_held,
    same_value,
)
from autoresearch_jax.types import Scalar

# `-- NAME = value` in a line by itself, which the user's own program reads, and `SET name = value`
SQL_CONSTANTS = (
    r"^[ \t]*(?:--[ \t]*(?=[A-Za-z_]\w*[ \t]*=)|SET[ \t]+(?:SESSION[ \t]+|LOCAL[ \t]+)?)(?P<name>[A-Za-z_][\w.]*)"
    r"[ \t]*(?:=|\bTO\b)[ \t]*(?P<value>'[^'\n]*'|[^\s;']+)[ \t]*;?[ \t]*(?:--.*)?$"
)
DIALECTS = ("postgres", "")  # tried in this order; the second is sqlglot's own, which takes a little of all


@dataclass(frozen=True)
class TextKind:
    """See `AssetKind`; a text in which blanks may mean something, too, but for blank lines at its end."""

    noun: str = "text"
    constants_pattern: str | None = None
    name = "text"
    unit = "words"
    rule = ""

    def check(self, text: str) -> None:
        self._parsed(text)

    def tree(self, text: str, blank: Collection[str] = ()) -> str:
        hidden = {
            match["name"]: repr(_read(match["value"]))
            for match in self._matches(text)
            if match["name"] not in blank and self._is_comment(text, match.start("value"))
        }
        return json.dumps([hidden, self._parsed(self._with_blanks(text, blank))], sort_keys=True)

    def canonical(self, text: str) -> str:
        return self.tree(text)

    def size(self, text: str, values_of: Collection[str] = ()) -> int | None:
        try:
            return self._count(self._with_blanks(text, values_of))
        except AssetSyntaxError:
            return None

    def carried_bytes(self, text: str, baseline: str, enough: int = 0) -> int:
        return 0

    def constants(self, text: str) -> dict[str, ConstantValue]:
        self._parsed(text)
        return dict(self._found(text))

    def settable(self, text: str) -> dict[str, Scalar]:
        self._parsed(text)
        names = [match["name"] for match in self._matches(text)]
        return {name: value for name, value in self._found(text).items() if names.count(name) == 1}

    def set_constants(self, text: str, values: Mapping[str, Scalar], *, anew: bool = False) -> str:
        current = self.settable(text)
        if unknown := next((name for name in values if name not in current), None):
            raise ConstantError(f"no constant {unknown} that can be set; there are {', '.join(current) or 'none'}")
        new = {name: value for name, value in values.items() if anew or not same_value(current[name], value)}
        changed = self._replace(text, {name: _spelt(value) for name, value in new.items()}, in_quotes=True)
        found = self._found(changed)
        for name, value in new.items():
            if name not in found or not same_value(found[name], value):
                raise ConstantError(f"{name} cannot be set to {value!r} where it stands")
        return changed

    def _matches(self, text: str) -> list[re.Match[str]]:
        if self.constants_pattern is None:
            return []
        pattern = re.compile(self.constants_pattern, re.MULTILINE | re.IGNORECASE)
        return [match for match in pattern.finditer(text) if match["name"] and match["value"]]

    def _found(self, text: str) -> dict[str, Scalar]:
        return {match["name"]: _read(match["value"]) for match in self._matches(text)}

    def _replace(self, text: str, values: Mapping[str, str], *, in_quotes: bool) -> str:
        for match in reversed(self._matches(text)):
            if match["name"] in values:
                start, end = match.span("value")
                if in_quotes and _is_quoted(match["value"]):
                    start, end = start + 1, end - 1
                text = text[:start] + values[match["name"]] + text[end:]
        return text

    def _with_blanks(self, text: str, names: Collection[str]) -> str:
        return self._replace(text, dict.fromkeys(names, "0"), in_quotes=False) if names else text

    def _is_comment(self, text: str, place: int) -> bool:
        """Whether `_parsed` does not see what stands at a place."""
        return False

    def _parsed(self, text: str) -> Any:
        """What JSON can hold of what the text says; raises AssetSyntaxError."""
        return text.rstrip("\r\n")

    def _count(self, text: str) -> int:
        return len(text.split())


@dataclass(frozen=True)
class SqlKind(TextKind):
    """See `AssetKind`; identity by the words of sqlglot's tokenizer, which loses none of them as its trees may."""

    noun: str = "SQL file"
    constants_pattern: str | None = SQL_CONSTANTS
    name = "sql"
    unit = "nodes"

    def _is_comment(self, text: str, place: int) -> bool:
        line = text[text.rfind("\n", 0, place) + 1 : place]
        return "--" in line or text.rfind("/*", 0, place) > text.rfind("*/", 0, place)

    def _parsed(self, text: str) -> Any:
        statements = [words for words, _ in _statements(text)]
        starts = [token.start for words in statements for token in words]
        hints = [[bisect.bisect(starts, place), words] for place, words in _hints(text)]
        return [hints, *([_word(token) for token in words] for words in statements)]

    def _count(self, text: str) -> int:
        return sum(len(words) if tree is None else _num_nodes(tree) for words, tree in _statements(text))


def _hints(text: str) -> Iterator[tuple[int, str]]:
    """Comments that some databases obey, with their places: those of /*+ */ and --+, and MySQL's of /*! */."""
    end = 0
    while match := _HINT.search(text, end):
        end = text.find("\n" if match[0] == "--+" else "*/", match.end())
        end = len(text) if end < 0 else end
        yield match.start(), text[match.start() : end]


_HINT = re.compile(r"/\*[+!]|--\+")


@lru_cache(maxsize=4)  # a champion's text is asked about again and again
def _statements(text: str) -> tuple[tuple[list[Any], Any], ...]:
    """The words of each statement, and its tree, not to be changed; None for one that sqlglot does not know.

    What begins as a query does, and is none in any dialect, is an error; other statements are the database's to judge.
    Raises AssetSyntaxError.
    """
    from sqlglot.dialects import Dialect
    from sqlglot.errors import SqlglotError

    logger = logging.getLogger("sqlglot")
    was_disabled, logger.disabled = logger.disabled, True  # it warns of each statement that it does not know
    try:
        tokens = Dialect.get_or_raise(DIALECTS[0]).tokenize(text)
        parts: list[list[Any]] = [[]]
        for token in tokens:
            if token.token_type.name == "SEMICOLON":
                parts.append([])
            else:
                parts[-1].append(token)
        return tuple((words, _tree(text, words)) for words in parts if words)
    except (SqlglotError, ValueError) as error:
        raise AssetSyntaxError(_line_of_open_quote(text), " ".join(str(error).split())[:200]) from error
    finally:
        logger.disabled = was_disabled


def _tree(text: str, words: list[Any]) -> Any:
    """The tree of a statement, see `_statements`."""
    from sqlglot import exp
    from sqlglot.dialects import Dialect
    from sqlglot.errors import ParseError

    fault: ParseError | None = None
    for dialect in DIALECTS:
        try:
            (found,) = Dialect.get_or_raise(dialect).parser().parse(words, text)
        except ParseError as error:
            fault = fault or error
        except (ValueError, RecursionError):
            continue
        else:
            return None if found is None or any(found.find_all(exp.Command)) else found
    if fault is not None and words[0].text.upper() in _QUERIES:
        first = fault.errors[0] if fault.errors else {}
        raise AssetSyntaxError(first.get("line") or words[0].line, str(first.get("description") or fault))
    return None


_QUERIES = frozenset(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "VALUES", "("))


def _word(token: Any) -> str:
    """A word as it is compared: names in quotes and strings as they stand, the others in capitals."""
    kind, text = token.token_type.name, str(token.text)
    return f"{kind} {text if kind == 'IDENTIFIER' or kind.endswith('STRING') else text.upper()}"


def _num_nodes(tree: Any) -> int:
    """Nodes of a tree; a string counts one for each byte that it holds."""
    from sqlglot import exp

    return sum(
        max(1, bytes_held(node.this)) if isinstance(node, exp.Literal) and node.is_string else 1 for node in tree.walk()
    )


def _line_of_open_quote(text: str) -> int | None:
    """The line of the last quote, which is what a text that cannot be read in words has left open."""
    last = max(text.rfind(quote) for quote in ("'", '"', "$$", "/*"))
    return None if last < 0 else text.count("\n", 0, last) + 1


# Blanks beside these are not shown; beside all others, custom elements among them, they are.
_BLOCK = re.compile(
    "/?(address|article|aside|base|blockquote|body|caption|center|col|colgroup|dd|details|dialog|dir|div|dl|dt|fieldset|"
    "figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hgroup|hr|html|legend|li|link|main|menu|meta|nav|"
    "ol|optgroup|option|p|pre|search|section|style|summary|table|tbody|td|tfoot|th|thead|title|tr|ul)|!doctype.*"
)
_VOID = re.compile("area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr")
_END_MAY_LACK = re.compile(
    "body|caption|colgroup|dd|dt|head|html|li|optgroup|option|p|rp|rt|tbody|td|tfoot|th|thead|tr"
)
_VERBATIM, _CODE = frozenset(("pre", "textarea")), frozenset(("script", "style"))
_OBEYED = ("[", "#")  # what a comment begins with that a browser or a server obeys


@dataclass(frozen=True)
class HtmlKind(TextKind):
    """See `AssetKind`; elements, attributes in any order, and words."""

    noun: str = "HTML page"
    name = "html"
    unit = "nodes"

    def _is_comment(self, text: str, place: int) -> bool:
        return text.rfind("<!--", 0, place) > text.rfind("-->", 0, place)

    def _parsed(self, text: str) -> Any:
        return _page(text)

    def _count(self, text: str) -> int:
        size = 0
        for event in _page(text):
            if isinstance(event, str):
                size += len(event.split())
            elif not event[0].startswith("/"):
                size += 1 + sum(max(1, len(str(value or "").split())) for _, value in event[1])
        return size


@lru_cache(maxsize=4)
def _page(text: str) -> list[Any]:
    """What `_HtmlReader` makes of a text, not to be changed."""
    return _HtmlReader.read(text)


class _HtmlReader(HTMLParser):
    """Tags, with what is not a comment between them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []  # [tag, attributes], ["/tag", []], text
        self._open: list[tuple[str, int]] = []  # tags, and the lines where they begin

    @classmethod
    def read(cls, text: str) -> list[Any]:
        """The page; raises AssetSyntaxError where an end tag ends nothing, or one is missing."""
        reader = cls()
        reader.feed(text)
        reader.close()
        reader._close_up_to(0)
        return list(_without_layout(reader.events))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        first = dict(reversed(attrs))  # of several values of one name
        self.events.append([tag, [[name, first[name]] for name in sorted(first)]])
        if not _VOID.fullmatch(tag):
            self._open.append((tag, self.getpos()[0]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if not _VOID.fullmatch(tag):  # which ends outside of SVG and MathML only
            self.events[-1][1].append(["/", None])
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        self.events.append([f"/{tag}", []])
        place = next((at for at in reversed(range(len(self._open))) if self._open[at][0] == tag), None)
        if place is None:
            if _VOID.fullmatch(tag) or tag == "p":
                return
            raise AssetSyntaxError(self.getpos()[0], f"</{tag}> ends nothing")
        self._close_up_to(place + 1)
        self._open.pop()

    def _close_up_to(self, place: int) -> None:
        for tag, line in reversed(self._open[place:]):
            if not _END_MAY_LACK.fullmatch(tag):
                raise AssetSyntaxError(line, f"<{tag}> has no end")
        del self._open[place:]

    def handle_data(self, data: str) -> None:
        if self.events and isinstance(self.events[-1], str):
            self.events[-1] += data
        else:
            self.events.append(data)

    def handle_decl(self, decl: str) -> None:
        self.events.append([f"!{decl.lower()}", []])

    def handle_pi(self, data: str) -> None:
        self.events.append(["?", [["", data]]])

    def unknown_decl(self, data: str) -> None:
        self.events.append(["![", [["", data]]])

    def handle_comment(self, data: str) -> None:
        if data.startswith(_OBEYED):
            self.events.append(["!--", [["", data]]])


def _without_layout(events: list[Any]) -> Iterator[Any]:
    """Runs of blanks as one, and none beside an element that is no part of a line."""
    verbatim = code = 0
    for at, event in enumerate(events):
        if not isinstance(event, str):
            tag = event[0]
            change = -1 if tag.startswith("/") else 1
            verbatim += change * (tag.lstrip("/") in _VERBATIM)
            code += change * (tag.lstrip("/") in _CODE)
            yield event
            continue
        if verbatim > 0:  # the first line's end is not shown
            yield event.removeprefix("\n") if events[at - 1][0] in _VERBATIM else event
            continue
        if code > 0:
            yield event.strip()
            continue
        words = re.sub(r"[ \t\r\n\f]+", " ", event)
        if at == 0 or _is_block(events[at - 1]):
            words = words.lstrip(" ")
        if at + 1 == len(events) or _is_block(events[at + 1]):
            words = words.rstrip(" ")
        if words:
            yield words


def _is_block(event: Any) -> bool:
    return not isinstance(event, str) and _BLOCK.fullmatch(event[0]) is not None


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""


def _read(text: str) -> Scalar:
    """A number, or a string with or without quotes."""
    if _is_quoted(text):
        return text[1:-1]
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, int | float) else text


def _spelt(value: Scalar) -> str:
    return value if isinstance(value, str) else repr(value)


def compiled_pattern(pattern: str, refuse: Callable[[str], Exception]) -> str:
    """A pattern of constants that can be used; raises what `refuse` makes of the reason if it is none."""
    try:
        groups = re.compile(pattern, re.MULTILINE | re.IGNORECASE).groupindex
    except re.error as error:
        raise refuse(f"is no regular expression: {error}") from error
    if missing := [f"(?P<{name}>...)" for name in ("name", "value") if name not in groups]:
        raise refuse(f"has no group {' and no group '.join(missing)}")
    return pattern
