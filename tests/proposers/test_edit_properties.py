"""The edit ladder on any two files: the second one or a refusal, never a third program."""

import ast
import contextlib
import re
from dataclasses import dataclass

import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from autoresearch_jax.proposers.edit_blocks import parse_blocks
from autoresearch_jax.proposers.edits import Edit, EditError, apply_edits, edits_between, replace_file

NAMES = ("alpha", "beta", "gamma_rate", "delta_rate", "learning_rate", "total")
LINES = (
    *(f"{name} = {other} + {n}" for name in NAMES[:3] for other in NAMES[2:5] for n in (1, 2)),
    "total = [\n    alpha,\n    beta,\n]",
    "text = 'one  two'",
    'text = """first\n\n    second  line\n"""',
    "text = f'{alpha}  {beta}'",
    "# a note",
    "alpha = beta  # why",
    "pass",
    "",
)
HEADS = (
    "if alpha:",
    "for beta in total:",
    "def forward(alpha, beta):",
    "def backward(alpha):",
    "class Model:",
    "while total:",
)


def nested(children: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """A head and an indented body; strings of several lines are indented with it, which makes them other strings."""
    bodies = st.lists(children, min_size=1, max_size=4).map(
        lambda parts: ["pass", *(line for part in parts for line in part)]
    )
    return st.builds(
        lambda head, body: [head, *(f"    {line}" if line else "" for line in body)], st.sampled_from(HEADS), bodies
    )


STATEMENTS = st.recursive(st.sampled_from(LINES).map(lambda text: text.split("\n")), nested, max_leaves=8)
BLOCKS = st.lists(STATEMENTS, max_size=8)


def module(blocks: list[list[str]]) -> str:
    return "".join(f"{line}\n" for block in blocks for line in block)


@dataclass(frozen=True)
class Pair:
    """Two modules that have something in common, or nothing; `around` lines more than needed are quoted in an edit."""

    old: str
    new: str
    around: int = 0

    def edits(self) -> list[Edit]:
        assume(self.old.strip() and self.old != self.new)
        return edits_between(self.old, self.new, self.around)


@st.composite
def pairs(draw) -> Pair:
    old = draw(BLOCKS)
    around = draw(st.integers(0, 4))
    if draw(st.integers(0, 3)) == 0:
        return Pair(module(old), module(draw(BLOCKS)), around)
    new = list(old)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(new)))
        new[at : at + draw(st.integers(0, 2))] = draw(st.lists(STATEMENTS, max_size=2))
    return Pair(module(old), module(new), around)


def test_the_strategy_makes_python():
    @settings(max_examples=100, deadline=None)
    @given(BLOCKS)
    def parses(blocks):
        ast.parse(module(blocks))

    parses()


def program(source: str) -> str:
    return ast.dump(ast.parse(source))


def applied(source: str, edits: list[Edit]) -> str | None:
    """The result; None for a refusal."""
    try:
        result = apply_edits(source, edits)
    except EditError as refused:
        event(", ".join(sorted({problem.reason.value for problem in refused.problems})))
        return None
    event(", ".join(sorted({rung.value for rung in result.rungs})))
    return result.source


@settings(max_examples=300, deadline=None)
@given(pairs())
@example(Pair("x = 1\n" * 5, "x = 1\n" * 4))
@example(Pair("x = 1", "x = 1\n"))
@example(Pair("x = 1\n\n\n", "\n"))
@example(Pair("x = 1\n\n\n", "\n\ny = 1\n"))
def test_the_edits_between_two_files_make_the_second_of_the_first(pair):
    edits = pair.edits()
    assert applied(pair.old, edits) == pair.new
    assert parse_blocks("".join(written(edit) for edit in edits)) == [*edits]


def written(edit: Edit) -> str:
    ends = ["\n" if text and not text.endswith("\n") else "" for text in (edit.search, edit.replace)]
    assume(ends == ["", ""])
    return f"<<<<<<< SEARCH\n{edit.search}=======\n{edit.replace}>>>>>>> REPLACE\n"


@settings(max_examples=300, deadline=None)
@given(pairs(), st.booleans())
def test_line_ends_make_no_difference(pair, windows_edits):
    edits = pair.edits()
    if windows_edits:
        edits = [Edit(edit.search.replace("\n", "\r\n"), edit.replace.replace("\n", "\r\n")) for edit in edits]
    assert applied(pair.old.replace("\n", "\r\n"), edits) in (None, pair.new.replace("\n", "\r\n"))


def mangled(text: str, draw) -> str:
    """Whitespace that means nothing in code, added and taken away; strings are hit as well."""
    how = draw(st.sampled_from(["trailing", "runs", "tight", "tabs", "blank lines", "no blank lines"]))
    if how == "trailing":
        return text.replace("\n", "  \n")
    if how == "runs":
        return re.sub(r"(?<=\S) (?=\S)", "   ", text)
    if how == "tight":
        return text.replace(" + ", "+").replace(" = ", "=")
    if how == "tabs":
        return text.replace("    ", "\t")
    return text.replace("\n", "\n\n") if how == "blank lines" else re.sub(r"\n+", "\n", text)


def quotes_another_place(search: str, source: str, true: str) -> bool:
    """Whole lines that stand word for word elsewhere are meant there: no ladder can know better."""
    lines = search.strip("\n")
    return search != true and f"\n{lines}\n" in f"\n{source}\n"


def make_no_third_program(pair: Pair, edits: list[Edit], changed: list[Edit]) -> None:
    """Asserts that edits which were written down wrongly give what was meant, or a refusal."""
    text = pair.old
    for true, edit in zip(edits, changed, strict=True):
        assume(not quotes_another_place(edit.search, text, true.search))
        text = text.replace(true.search, true.replace, 1)
    result = applied(pair.old, changed)
    assert result is None or program(result) == program(pair.new)


@settings(max_examples=300, deadline=None)
@given(pairs(), st.data())
def test_mangled_whitespace_makes_no_third_program(pair, data):
    edits = pair.edits()
    changed = [Edit(mangled(edit.search, data.draw), edit.replace) for edit in edits]
    make_no_third_program(pair, edits, changed)


@settings(max_examples=300, deadline=None)
@given(pairs(), st.sampled_from([0, 2, 4, 8]))
def test_shifted_blocks_make_no_third_program(pair, columns):
    def shifted(edit: Edit) -> Edit:
        """Both halves without the indentation that they share, and with `columns` instead."""
        lines = [line for line in (edit.search + edit.replace).split("\n") if line.strip()]
        shared = min(len(line) - len(line.lstrip()) for line in lines)
        return Edit(*(re.sub(rf"(?m)^ {{{shared}}}(?=.)", " " * columns, half) for half in (edit.search, edit.replace)))

    edits = pair.edits()
    changed = [shifted(edit) for edit in edits]
    make_no_third_program(pair, edits, changed)


@settings(max_examples=300, deadline=None)
@given(pairs(), st.data())
def test_misspelt_searches_make_no_third_program(pair, data):
    edits = pair.edits()
    changed = []
    for edit in edits:
        words = [match.span() for match in re.finditer(r"\w+", edit.search)]
        if words and data.draw(st.booleans()):
            start, end = data.draw(st.sampled_from(words))
            word = edit.search[start:end]
            at = data.draw(st.integers(0, len(word)))
            wrong = data.draw(
                st.sampled_from([word[:at] + "q" + word[at:], word[:at] + word[at + 1 :], word + word[-1:]])
            )
            edit = Edit(edit.search[:start] + wrong + edit.search[end:], edit.replace)
        changed.append(edit)
    make_no_third_program(pair, edits, changed)


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            "x",
            " ",
            "    ",
            "\t",
            "\n",
            "\r\n",
            "'",
            '"""',
            "#",
            "(",
            ")",
            "\\",
            "= 1",
            "if x:",
            "\x0c",
            "\u2028",
            "ü",
            "\0",
            "```",
            "=",
        ]
    ),
    max_size=12,
).map("".join)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=300, deadline=None)
@given(FRAGMENTS | st.text(max_size=30), st.lists(st.tuples(FRAGMENTS | st.text(max_size=10), FRAGMENTS), max_size=5))
def test_nothing_raises_anything_but_a_refusal(source, edits):
    result = applied(source, [Edit(*edit) for edit in edits])
    if result is not None:
        ast.parse(result)
        assert result != source
    for text in (source, *(text for edit in edits for text in edit)):
        with contextlib.suppress(EditError):
            assert replace_file(source, text).source.strip()
        with contextlib.suppress(EditError):
            assert parse_blocks(text)
