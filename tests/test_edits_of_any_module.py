"""Edits of any two modules: they make the second of the first or a refusal, never a third program."""

import ast
import contextlib
import difflib
import re
from itertools import chain

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from autoresearch_jax.edits import Edit, EditError, apply_edits, read_edits, replace_file

LINES = (
    *(f"{one} = {other} + {n}" for one in ("alpha", "beta") for other in ("gamma_rate", "delta_rate") for n in (1, 2)),
    *("total = [\n    alpha,\n    beta,\n]", "text = 'one  two'", 'text = """first\n\n    second  line\n"""'),
    *("text = f'{alpha}  {beta}'", "# a note", "alpha = beta  # why", "pass", ""),
)
HEADS = ("if alpha:", "for beta in total:", "def forward(alpha, beta):", "class Model:", "while total:")


def nested(children: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """A head and an indented body; strings of several lines are indented with it, which makes them other strings."""
    bodies = st.lists(children, min_size=1, max_size=4).map(lambda parts: ["pass", *chain(*parts)])
    return st.builds(
        lambda head, body: [head, *(f"    {x}" if x else "" for x in body)], st.sampled_from(HEADS), bodies
    )


STATEMENTS = st.recursive(st.sampled_from(LINES).map(lambda text: text.split("\n")), nested, max_leaves=8)
BLOCKS = st.lists(STATEMENTS, max_size=8)


@st.composite
def pairs(draw) -> tuple[str, str, list[Edit]]:
    """Two modules and the edits that make the second of the first."""
    old = draw(BLOCKS)
    new = list(old)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(new)))
        new[at : at + draw(st.integers(0, 2))] = draw(st.lists(STATEMENTS, max_size=2))
    texts = ["".join(f"{line}\n" for block in blocks for line in block) for blocks in (old, new)]
    assume(texts[0].strip() and texts[0] != texts[1])
    return *texts, edits_between(*texts, draw(st.integers(0, 4)))


def edits_between(old: str, new: str, around: int) -> list[Edit]:
    """Edits, each with a number of lines around it, or with more where its place would be ambiguous."""
    current, wanted = old.splitlines(keepends=True), new.splitlines(keepends=True)
    edits, moved = [], 0
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, current, wanted).get_opcodes():
        if tag == "equal":
            continue
        low, high = i1 + moved, i2 + moved
        for least in range(around, len(current) + around + 1):
            before, after = current[max(0, low - least) : low], current[high : high + least]
            search = "".join([*before, *current[low:high], *after])
            if search.strip() and len(re.findall(f"(?={re.escape(search)})", "".join(current))) == 1:
                break
        else:
            return [Edit(old, new)]
        edits.append(Edit(search, "".join([*before, *wanted[j1:j2], *after])))
        current = [*current[:low], *wanted[j1:j2], *current[high:]]
        moved += (j2 - j1) - (i2 - i1)
    return edits


def applied(source: str, edits: list[Edit]) -> str | None:
    """The result; None for a refusal."""
    try:
        return apply_edits(source, edits)
    except EditError:
        return None


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_right_edits_and_diffs_make_the_second_of_the_first(pair):
    old, new, edits = pair
    assert applied(old, edits) == new
    assert applied(old.replace("\n", "\r\n"), edits) in (None, new.replace("\n", "\r\n"))
    blocks = [f"<<<<<<< SEARCH\n{edit.search}=======\n{edit.replace}>>>>>>> REPLACE\n" for edit in edits]
    assert read_edits("".join(blocks)) == edits
    diff = "".join(difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), "a", "b"))
    with contextlib.suppress(EditError):
        assert program(apply_edits(old, read_edits(diff))) == program(new)


def program(source: str) -> str:
    return ast.dump(ast.parse(source))


def make_no_third_program(pair: tuple[str, str, list[Edit]], changed: list[Edit]) -> None:
    """Asserts that edits which were written down wrongly give what was meant, or a refusal."""
    old, new, edits = pair
    text = old
    for true, edit in zip(edits, changed, strict=True):
        lines = edit.search.strip("\n")
        assume(edit.search == true.search or f"\n{lines}\n" not in f"\n{text}\n")  # word for word it is meant there
        text = text.replace(true.search, true.replace, 1)
    result = applied(old, changed)
    assert result is None or program(result) == program(new)


MANGLED = {
    "trailing": lambda text: text.replace("\n", "  \n"),
    "runs": lambda text: re.sub(r"(?<=\S) (?=\S)", "   ", text),
    "tight": lambda text: text.replace(" + ", "+").replace(" = ", "="),
    "tabs": lambda text: text.replace("    ", "\t"),
    "blank lines": lambda text: text.replace("\n", "\n\n"),
    "no blank lines": lambda text: re.sub(r"\n+", "\n", text),
}


@settings(max_examples=80, deadline=None)
@given(pairs(), st.sampled_from(list(MANGLED)))
def test_mangled_whitespace_makes_no_third_program(pair, how):
    make_no_third_program(pair, [Edit(MANGLED[how](edit.search), edit.replace) for edit in pair[2]])


@settings(max_examples=80, deadline=None)
@given(pairs(), st.sampled_from([0, 2, 4, 8]))
def test_shifted_blocks_make_no_third_program(pair, columns):
    changed = []
    for edit in pair[2]:
        lines = [line for line in (edit.search + edit.replace).split("\n") if line.strip()]
        shared = min(len(line) - len(line.lstrip()) for line in lines)
        halves = (re.sub(rf"(?m)^ {{{shared}}}(?=.)", " " * columns, half) for half in (edit.search, edit.replace))
        changed.append(Edit(*halves))
    make_no_third_program(pair, changed)


PARTS = ("x", " ", "    ", "\t", "\n", "\r\n", "'", '"""', "#", "(", ")", "\\", "= 1", "if x:", "\x0c", "\u2028", "\0")
MARKS = ("```", "=", "@@", "+x", "-x", "<<<<<<< SEARCH\n", "=======\n", ">>>>>>> REPLACE\n")
FRAGMENTS = st.lists(st.sampled_from(PARTS + MARKS), max_size=12).map("".join)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=80, deadline=None)
@given(FRAGMENTS | st.text(max_size=30), st.lists(st.tuples(FRAGMENTS | st.text(max_size=10), FRAGMENTS), max_size=5))
@example("x = 1\n", [("x = 1\n\n", "\ud800")])
def test_nothing_raises_anything_but_a_refusal(source, edits):
    result = applied(source, [Edit(*edit) for edit in edits])
    if result is not None:
        ast.parse(result)
        assert result != source
    for text in (source, *(text for edit in edits for text in edit)):
        with contextlib.suppress(EditError):
            assert replace_file(source, text).strip()
        with contextlib.suppress(EditError):
            read_edits(text)
