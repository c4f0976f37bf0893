"""Constants of a training file are read and set, proposals moved to another champion."""

import dataclasses
import os

import pytest
from fakes import SOURCE as FAKE_SOURCE

from autoresearch_jax.assets.base import ConstantError
from autoresearch_jax.assets.python_constants import read_constants, set_constants
from autoresearch_jax.engine.git import Git
from autoresearch_jax.proposers.base import Brief, Proposal, rebase
from autoresearch_jax.types import Metric

SOURCE = '''"""Doc."""
import os

DEPTH = 4  # layers
LR: float = 4e-2   # a comment that stays
BETAS = (0.9, 0.95)
PATTERN = 'SL'  ; FLAG = True
TOKENS = 2**19
NEGATIVE = -1.5
WIDTH = DEPTH * 64  # follows DEPTH
lower = 3
TWICE = 1
TWICE = 2


def f():
    DEPTH = 7
    return DEPTH
'''


def test_reads_literals_and_arithmetic_of_top_level_names():
    assert read_constants(SOURCE) == {
        "DEPTH": 4,
        "LR": 0.04,
        "BETAS": (0.9, 0.95),
        "PATTERN": "SL",
        "FLAG": True,
        "TOKENS": 524288,
        "NEGATIVE": -1.5,
        "TWICE": 2,
    }


def test_arithmetic_that_would_hang_is_left_out():
    assert read_constants("A = 9**9**9\nB = 1/0\nC = 3") == {"C": 3}


@pytest.mark.parametrize(
    "expression", ["(-8) ** 0.5", "{[]: 1}", "{{}}", "((9**64)**64)**2", "0x1" + "0" * 4000, "2**512 * 2**512 - 1"]
)
def test_what_no_ledger_can_store_is_left_out(expression):
    assert read_constants(f"A = {expression}\nB = 3") == {"B": 3}


def test_what_the_parser_gives_up_on_is_a_syntax_error():
    assert read_constants("A = " + "1 + " * 600 + "1\nB = 3") == {"B": 3}
    for source in ("A = " + "-" * 200_000 + "1\n", "A = 1  # \0\n"):
        with pytest.raises(SyntaxError):
            read_constants(source)


def test_sets_values_and_nothing_else():
    edited = set_constants(SOURCE, {"DEPTH": 6, "LR": 0.028, "FLAG": False, "PATTERN": 'S"L', "TOKENS": 7})
    expected = (
        SOURCE.replace("DEPTH = 4  #", "DEPTH = 6  #")
        .replace("4e-2 ", "0.028 ")
        .replace("True", "False")
        .replace("'SL'", "'S\"L'")
        .replace("2**19", "7")
    )
    assert edited == expected


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"GONE": 1}, "no top-level constant GONE; there are DEPTH, LR, BETAS, PATTERN, FLAG, TOKENS, NEGATIVE, WIDTH"),
        ({"TWICE": 1}, "the constant TWICE is set 2 times at top level; keep one"),
        ({"LR": float("nan")}, "LR cannot be set to nan: a constant is a finite number"),
    ],
)
def test_what_cannot_be_set(values, complaint):
    with pytest.raises(ConstantError) as caught:
        set_constants(SOURCE, values)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("source", "edited"),
    [
        ("A = 1\r\nB = (\r\n    2  # two\r\n)\r\n", "A = 7\r\nB = (\r\n    2  # two\r\n)\r\n"),
        ("B = (\n    2\n); A = 1  # one\nC = 3", "B = (\n    2\n); A = 7  # one\nC = 3"),
        ("C = 3\nA = (\n    1\n)", "C = 3\nA = 7"),
        ('"""A \x0c page\x0b."""\n\x0c\nA = 1\n', '"""A \x0c page\x0b."""\n\x0c\nA = 7\n'),
        ("@f\ndef g(): pass\n\nA: int = 1;\n", "@f\ndef g(): pass\n\nA: int = 7;\n"),
    ],
)
def test_line_ends_and_shared_lines_are_kept(source, edited):
    assert set_constants(source, {"A": 7}) == edited


BODY = "\n\ndef step(x):\n    return x + 1\n\n\ndef scale(x):\n    return x * 2\n"
BASE = FAKE_SOURCE + BODY


@pytest.fixture
def merge(tmp_path):
    return Git(tmp_path, os.environ).merge


def brief(champion: str) -> Brief:
    return Brief(2, 0, Metric("loss"), "", (), champion, read_constants(champion), 1.0, ())


def edited(source: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert source.count(old) == 1
        source = source.replace(old, new)
    return source


def code(source: str) -> Proposal:
    return Proposal("a change", "code", source=source, cost_dollars=0.5, proposer="agent")


def test_for_the_same_champion_it_stays_as_it_is(merge):
    proposal = code(edited(BASE, ("x + 1", "x + 3")))
    assert rebase(proposal, BASE, brief(BASE), merge) is proposal


def test_a_change_elsewhere_is_carried_over_with_all_else_it_says(merge):
    champion = edited(BASE, ("x * 2", "x * 4"), ("LR = 0.5", "LR = 0.1"))
    proposal = code(edited(BASE, ("x + 1", "x + 3")))
    moved = rebase(proposal, BASE, brief(champion), merge)
    assert moved == dataclasses.replace(proposal, source=edited(champion, ("x + 1", "x + 3")))


def test_constants_side_by_side_are_no_conflict(merge):
    champion = edited(BASE, ("LR = 0.5", "LR = 0.1"))
    proposal = code(edited(BASE, ("DEPTH = 4", "DEPTH = 6"), ("x + 1", "x + 3")))
    moved = rebase(proposal, BASE, brief(champion), merge)
    assert moved.source == edited(champion, ("DEPTH = 4", "DEPTH = 6"), ("x + 1", "x + 3"))


@pytest.mark.parametrize(
    ("champion", "proposed"),
    [
        ([("x + 1", "x + 2")], [("x + 1", "x + 3")]),  # the same line
        ([("LR = 0.5", "LR = 0.1")], [("LR = 0.5", "LR = 0.3")]),  # the same constant
        # all of it or nothing: what is left would not be what its hypothesis says
        ([("LR = 0.5", "LR = 0.1")], [("LR = 0.5", "LR = 0.3"), ("x + 1", "x + 3")]),
        ([("x + 1", "x + 3")], [("x + 1", "x + 3"), ("return x * 2", "return x * 2  # why")]),  # a comment is left
    ],
)
def test_what_no_longer_fits_is_stale(merge, champion, proposed):
    assert rebase(code(edited(BASE, *proposed)), BASE, brief(edited(BASE, *champion)), merge) is None


def test_lines_that_no_constant_can_be_set_in_are_stale_and_not_the_end(merge):
    endless = "DEPTH = 6; y = " + "+".join("0" * 2500)
    champion = edited(BASE, ("DEPTH = 4", "DEPTH = 5"))
    proposal = code(edited(BASE, ("DEPTH = 4  # best at 6", endless)))
    assert rebase(proposal, BASE, brief(champion), merge) is None
    with pytest.raises(ConstantError, match=r"^DEPTH: no value can be set in a line like that: RecursionError"):
        set_constants(proposal.source, {"DEPTH": 8})
