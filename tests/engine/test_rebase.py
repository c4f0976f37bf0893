"""A proposal that was made for one champion, moved to the next."""

import dataclasses
import os

import pytest
from fakes import SOURCE

from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.training_file import ConstantError, read_constants, rebase, set_constants
from autoresearch_jax.proposers.base import Brief, Proposal
from autoresearch_jax.types import Metric

BODY = "\n\ndef step(x):\n    return x + 1\n\n\ndef scale(x):\n    return x * 2\n"
BASE = SOURCE + BODY


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


def test_the_same_value_for_a_constant_is_no_conflict(merge):
    champion = edited(BASE, ("LR = 0.5", "LR = 0.1"))
    proposal = code(edited(BASE, ("LR = 0.5", "LR = 0.1"), ("x + 1", "x + 3")))
    assert rebase(proposal, BASE, brief(champion), merge).source == edited(champion, ("x + 1", "x + 3"))


@pytest.mark.parametrize(
    ("champion", "proposed"),
    [
        ([("x + 1", "x + 2")], [("x + 1", "x + 3")]),  # the same line
        ([("x + 1", "x + 3")], [("x + 1", "x + 3")]),  # the same change
        ([("LR = 0.5", "LR = 0.1")], [("LR = 0.5", "LR = 0.3")]),  # the same constant
        # all of it or nothing: what is left would not be what its hypothesis says
        ([("LR = 0.5", "LR = 0.1")], [("LR = 0.5", "LR = 0.3"), ("x + 1", "x + 3")]),
        ([("x + 1", "x + 3")], [("x + 1", "x + 3"), ("return x * 2", "return x * 2  # why")]),  # a comment is left
        ([("x * 2", "x * 4")], [("return x + 1", "return (x + 1")]),  # not Python
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
