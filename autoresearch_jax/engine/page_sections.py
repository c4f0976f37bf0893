"""Sections of a page of Markdown, found in the forms in which people write them, each text with its line."""

import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.token import Token

from autoresearch_jax.engine.limits import read_stops
from autoresearch_jax.sanitize import quoted

SECTIONS = ("Goal", "You may change", "You must not change", "Stop when", "Ideas")
TABLE_SECTION = "You may change"
STOP_SECTION = "Stop when"
# Of karpathy/autoresearch's program.md, which has an agent run the loop by itself
ORIGINAL_SECTIONS = ("Setup", "Experimentation", "Output format", "Logging results", "The experiment loop")
LEAST_ORIGINAL_SECTIONS = 2  # by which a page is in its form: "Setup" alone is anybody's title
DONE_HERE = "makes the branch, trains, scores, fills results.tsv, keeps or reverts, and repeats"
ORIGINAL_NOTE = f"""\
(This page was written for an agent that runs the whole loop. Here another program {DONE_HERE}. Change the file
that is named above, even if the page gives it another name. Do not run, commit, log or reset anything.)

"""

_TITLES = {
    "Goal": r"(?:the )?goals?",
    "You may change": r"(?:what )?you (?:may|can) change",
    "You must not change": r"(?:what )?you (?:must|may|can) ?not change|do(?: not|n't) change",
    "Stop when": (
        r"stop(?:ping)?(?: (?:when|if|after|once|at|rules?|list))?|when to (?:stop|end)"
        r"|(?:stop(?:ping)?|end|exit|termination) (?:conditions?|criteri(?:on|a))"
        r"|(?:stop|end)(?: the (?:run|loop|search))? (?:when|if|after|once|at)(?: (?:any|one|either)(?: one)? of"
        r"(?: (?:these|the following|them))?(?: (?:conditions?|limits?|items?))?(?: (?:is |are )?[a-z]+)?)?"
    ),
    "Ideas": r"ideas?",
}
_PROSE = (  # beginnings of sentences and items
    re.compile(r"\W*(?:please )?(?:stop|end)(?: the (?:run|loop|search))? (?:when|if|after|once|at)\b(?!\W*$)", re.I),
    re.compile(rf"\W*(?:{_TITLES[STOP_SECTION]})\W*:", re.I),
)
_MARKS = re.compile(r"^\s*(?:#+|>\s|[-*+]\s|\d+[.)]\s)*\s*")
_PARAGRAPH_LEVEL = 7  # of a section that begins without a heading: any heading ends it


@dataclass(frozen=True)
class Block:
    """An item of a list, a paragraph or a heading, without its marks: the number of its first line, and its lines."""

    line: int
    lines: tuple[str, ...]
    is_item: bool = False

    @property
    def text(self) -> str:
        """In one line."""
        return " ".join(" ".join(self.lines).split())


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    line: int
    cells: tuple[str, ...]
    is_header: bool


@dataclass
class Section:
    """What stands under a title."""

    name: str | None  # one of `SECTIONS`; None for one that is not known, and for what stands before the first
    title: str  # as it is written
    line: int
    level: int  # of its heading
    # begun by a sentence, such as "Stop when 30 experiments are over", and no longer than its paragraph
    is_prose: bool = False
    blocks: list[Block] = field(default_factory=list)
    rows: list[TableRow] = field(default_factory=list)

    @property
    def texts(self) -> list[Block]:
        """The title and what stands under it."""
        return [Block(self.line, (self.title,)), *self.blocks]


def read_sections(text: str) -> list[Section]:
    """The sections of a page, what stands before the first one among them.

    A title may be a heading of any level, or a paragraph of its own, such as in bold. Blocks of code, into which
    indentation makes a text, too, are looked into where the table or the stopping list is not found elsewhere.
    """
    sections = _Reader(looks_into_code=False).read(text)
    if {STOP_SECTION, TABLE_SECTION} <= _names(sections):
        return sections
    with_code = _Reader(looks_into_code=True).read(text)
    return with_code if _names(with_code) > _names(sections) else sections


def section_of(title: str) -> str | None:
    """Which section a title names; None if it names none."""
    words = _bare(title)
    return next((name for name, pattern in _TITLES.items() if re.fullmatch(pattern, words, re.IGNORECASE)), None)


def original_sections(sections: Sequence[Section]) -> list[Section]:
    """The sections of the original's page among those that are not known; empty unless the page is in its form."""
    names = {name.removeprefix("the ") for name in map(str.lower, ORIGINAL_SECTIONS)}
    found = [one for one in sections if one.name is None and _bare(one.title).lower().removeprefix("the ") in names]
    return found if len(found) >= LEAST_ORIGINAL_SECTIONS else []


def describe_original(sections: Sequence[Section], constants: Collection[object], stops: Collection[object]) -> str:
    """What is made of a page's sections in the original's form, and which of the table's and list's items it lacks."""
    titles = ", ".join(quoted(section.title) for section in sections)
    words = f"{titles}: of the original's page, read by agents as prose; this driver itself {DONE_HERE}"
    if not constants:
        words += f'; no table of constants under "{TABLE_SECTION}": the optimizer moves none'
    if not stops:
        words += f'; no list under "{STOP_SECTION}": the run goes on until --experiments or you end it'
    return words + limits_in_vain(sections)


def limits_in_vain(sections: Sequence[Section]) -> str:
    """The limits in sections that end nothing, as the end of a notice; empty without one."""
    stops = [stop.words for one in sections for block in one.texts for stop in read_stops(block.lines)[0]]
    return f"; {', '.join(map(quoted, stops))} in it ends nothing" if stops else ""


def _bare(title: str) -> str:
    """A title without its number and the marks around it."""
    return " ".join(re.sub(r"^\W*(?:\d+[.)])?\W*|\W*$", "", title).replace("’", "'").split())


def _names(sections: Sequence[Section]) -> set[str]:
    return {section.name for section in sections if section.name is not None}


class _Reader:
    """Follows the tokens of a page."""

    def __init__(self, looks_into_code: bool) -> None:
        self._looks_into_code = looks_into_code
        self._markdown = MarkdownIt("commonmark").enable("table")
        self._here = Section(None, "", 0, 0)
        self._sections = [self._here]
        self._has_title = False

    def read(self, text: str) -> list[Section]:
        self._follow(self._markdown.parse(text), 1)
        return self._sections

    def _follow(self, tokens: Sequence[Token], first_line: int) -> None:
        heading: Token | None = None
        row: list[str] | None = None
        is_header = False
        items = line = 0
        for token in tokens:
            line = first_line + token.map[0] if token.map else line
            items += {"list_item_open": 1, "list_item_close": -1}.get(token.type, 0)
            match token.type:
                case "heading_open":
                    heading = token
                case "tr_open":
                    row, is_header = [], False
                case "th_open":
                    is_header = True
                case "tr_close":
                    assert row is not None
                    self._here.rows.append(TableRow(line, tuple(row), is_header))
                    if self._here.name == STOP_SECTION:
                        self._here.blocks.append(Block(line, ("; ".join(row),)))
                    row = None
                case "inline" if heading is not None:
                    self._heading(int(heading.tag[1:]), " ".join(_plain(token)), line)
                    heading = None
                case "inline" if row is not None:
                    row.append(token.content.replace("`", "").strip(" *"))
                case "inline":
                    self._paragraph(line, _plain(token), items > 0)
                case "html_block":
                    self._paragraph(line, _without_tags(token.content).split("\n"), False)
                case "fence" | "code_block":
                    self._code(token, line + (token.type == "fence"))

    def _heading(self, level: int, title: str, line: int) -> None:
        here, name = self._here, section_of(title)
        is_title_of_page = level == 1 and not self._has_title and here.level == 0
        is_of_section = level > (here.level or 2) or (here.name == STOP_SECTION and any(read_stops([title])))
        self._has_title = True
        if name is not None:
            self._begin(name, title, line, level)
        elif not is_of_section and any(form.match(title) for form in _PROSE) and read_stops([title])[0]:
            self._begin(STOP_SECTION, title, line, level)
            self._here.blocks.append(Block(line, (title,)))
        elif is_title_of_page or is_of_section:
            here.blocks.append(Block(line, (title,)))
        else:
            self._begin(None, title, line, level)

    def _begin(self, name: str | None, title: str, line: int, level: int, is_prose: bool = False) -> None:
        self._here = Section(name, title, line, level, is_prose)
        self._sections.append(self._here)

    def _paragraph(self, line: int, lines: Sequence[str], is_item: bool) -> None:
        """Adds a text; a line of it may be the title of a section, or a sentence that says when to stop."""
        before = self._here
        pending: list[str] = []
        begun = line
        for number, words in enumerate((_MARKS.sub("", text).strip() for text in lines), line):
            name = None if is_item else section_of(words)
            is_title = name is not None and name not in _names(self._sections)
            is_prose = self._here.name != STOP_SECTION and any(form.match(words) for form in _PROSE)
            if is_title or is_prose:
                self._add(begun, pending, is_item)
                pending, begun = [], number
                self._begin(name if is_title else STOP_SECTION, words, number, _PARAGRAPH_LEVEL, not is_title)
            if not is_title:
                pending.append(words)
        self._add(begun, pending, is_item)
        if self._here.is_prose and not lines[-1].rstrip().endswith(":"):
            self._here = before

    def _add(self, line: int, lines: Sequence[str], is_item: bool) -> None:
        if any(lines):
            self._here.blocks.append(Block(line, tuple(filter(None, lines)), is_item))

    def _code(self, token: Token, first_line: int) -> None:
        text = textwrap.dedent(token.content)
        here = self._here.name
        is_of_page = here == STOP_SECTION or (here == TABLE_SECTION and "|" in text)
        if is_of_page or (self._looks_into_code and any(_is_title(line) for line in text.splitlines())):
            self._follow(self._markdown.parse(text), first_line)


def _is_title(line: str) -> bool:
    """True for a line that is marked as the title of the table or of the stopping list."""
    return line.lstrip().startswith(("#", "**", "__")) and section_of(line) in (STOP_SECTION, TABLE_SECTION)


def _without_tags(html: str) -> str:
    without_comments = re.sub(r"<!--.*?(?:-->|\Z)", lambda match: "\n" * match[0].count("\n"), html, flags=re.S)
    return re.sub(r"</?[a-z][^<>]*>", "", without_comments, flags=re.I)


def _plain(token: Token) -> list[str]:
    """The lines of a text, without emphasis."""
    text = "".join(
        "\n" if child.type in ("softbreak", "hardbreak") else child.content
        for child in token.children or ()
        if child.type != "html_inline"
    )
    return text.split("\n")
