"""The champion's text without one of its changes."""

import os
from pathlib import Path

import pytest

from autoresearch_jax.engine.certifying import CONFLICT, SUPERSEDED, Reverted, Version, revert
from autoresearch_jax.engine.git import Git, GitError

BASELINE = '''"""A training file."""

LR = 0.5  # step size
DEPTH = 2**2
PATTERN = "SL"
BETAS = (0.9, 0.95)


def first(x):
    return x + 1


def second(x):
    return x * 2


def third(x):
    return x - 3
'''


@pytest.fixture
def merge(tmp_path):
    return Git(tmp_path, os.environ).merge


def versions(*sources: str) -> list[Version]:
    """The baseline and what was kept as experiments 10, 20, 30, ..."""
    return [Version(10 * number, source) for number, source in enumerate((BASELINE, *sources))]


def edited(source: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert source.count(old) == 1
        source = source.replace(old, new)
    return source


LR = ("LR = 0.5 ", "LR = 0.2 ")
DEPTH = ("DEPTH = 2**2", "DEPTH = 6")
FIRST = ("x + 1", "x + 10")
THIRD = ("x - 3", "x - 30")


ONE = edited(BASELINE, LR)
AGAIN = edited(ONE, ("LR = 0.2", "LR = 0.1"))
CODE = edited(BASELINE, FIRST)
WIDE = edited(BASELINE, ("DEPTH = 2**2", "DEPTH = 2**2\nWIDTH = 3"))
MIXED = edited(BASELINE, FIRST, LR, DEPTH)
TWICE = edited(BASELINE, ("DEPTH = 2**2", "DEPTH = 4\nDEPTH = 5"))
DEEPER = ("DEPTH = 6", "DEPTH = 8")


@pytest.mark.parametrize(
    ("sources", "index", "found"),
    [
        ([ONE, edited(ONE, DEPTH, FIRST)], 1, Reverted(edited(BASELINE, DEPTH, FIRST))),
        ([CODE, edited(CODE, THIRD)], 1, Reverted(edited(BASELINE, THIRD))),
        ([CODE, edited(CODE, THIRD)], 2, Reverted(CODE)),
        ([ONE, AGAIN, edited(AGAIN, FIRST)], 1, Reverted(None, SUPERSEDED, "LR was moved again by 20")),
        # a constant on the next line is no conflict, nor is one that is bound twice
        ([WIDE, edited(WIDE, LR, DEPTH)], 1, Reverted(edited(BASELINE, LR, DEPTH))),
        ([TWICE, edited(TWICE, THIRD)], 1, Reverted(edited(BASELINE, THIRD))),
        # code and constants go together, but for those that were moved again
        (
            [MIXED, edited(MIXED, THIRD, DEEPER)],
            1,
            Reverted(edited(BASELINE, ("DEPTH = 2**2", "DEPTH = 8"), THIRD), note="DEPTH was moved again by 20"),
        ),
        (
            [CODE, edited(CODE, ("x + 10", "x + 100"))],
            1,
            Reverted(None, CONFLICT, "later changes touch the same lines"),
        ),
    ],
)
def test_one_change_is_taken_out_and_all_others_stay(merge, sources, index, found):
    assert revert(versions(*sources), index, merge) == found


def test_no_text_for_git_is_one_line(tmp_path):
    with pytest.raises(GitError, match="git merge-file failed"):
        Git(tmp_path, os.environ).merge("a\0b", "a\n", "b\n")


def test_a_merge_leaves_the_folder_as_it_is(tmp_path: Path, merge):
    assert merge("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n") == "A\nb\nC\n"
    assert merge("a\n", "b\n", "c\n") is None
    assert list(tmp_path.iterdir()) == []
