"""The champion's text without one of its changes."""

import os
from pathlib import Path

import pytest

from autoresearch_jax.assets.python_constants import read_constants
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


def test_a_constant_is_set_back_and_all_else_stays(merge):
    one = edited(BASELINE, LR)
    two = edited(one, DEPTH, FIRST)
    assert revert(versions(one, two), 1, merge) == Reverted(edited(BASELINE, DEPTH, FIRST))


def test_the_last_change_taken_back_gives_the_text_before_it(merge):
    one = edited(BASELINE, FIRST)
    two = edited(one, THIRD)
    assert revert(versions(one, two), 2, merge) == Reverted(one)


def test_a_constant_that_was_moved_again_is_superseded(merge):
    one = edited(BASELINE, LR)
    two = edited(one, ("LR = 0.2", "LR = 0.1"))
    three = edited(two, FIRST)
    found = revert(versions(one, two, three), 1, merge)
    assert found == Reverted(None, SUPERSEDED, "LR was moved again by 20")


def test_of_several_constants_those_are_set_back_that_were_not_moved_again(merge):
    one = edited(BASELINE, LR, DEPTH)
    two = edited(one, ("DEPTH = 6", "DEPTH = 8"))
    found = revert(versions(one, two), 1, merge)
    assert found.source is not None
    assert {name: read_constants(found.source)[name] for name in ("LR", "DEPTH")} == {"LR": 0.5, "DEPTH": 8}
    assert found.note == "DEPTH was moved again by 20"


def test_code_is_merged(merge):
    one = edited(BASELINE, FIRST)
    two = edited(one, THIRD)
    found = revert(versions(one, two), 1, merge)
    assert found.source is not None
    assert "x + 1\n" in found.source
    assert "x - 30\n" in found.source


def test_a_constant_on_the_next_line_is_no_conflict(merge):
    """LR and DEPTH stand on neighbouring lines, with a new one between them."""
    one = edited(BASELINE, ("DEPTH = 2**2", "DEPTH = 2**2\nWIDTH = 3"))
    two = edited(one, LR, DEPTH, ('"SL"', '"SSSL"'))
    found = revert(versions(one, two), 1, merge)
    assert found.source is not None
    constants = read_constants(found.source)
    assert "WIDTH" not in constants
    assert (constants["LR"], constants["DEPTH"], constants["PATTERN"]) == (0.2, 6, "SSSL")


def test_code_and_constants_of_one_change_go_together(merge):
    one = edited(BASELINE, FIRST, LR, DEPTH)
    two = edited(one, THIRD, ("DEPTH = 6", "DEPTH = 8"))
    found = revert(versions(one, two), 1, merge)
    assert found.source is not None
    assert (read_constants(found.source)["LR"], read_constants(found.source)["DEPTH"]) == (0.5, 8)
    assert "x + 1\n" in found.source
    assert "x - 30\n" in found.source
    assert found.note == "DEPTH was moved again by 20"


def test_later_changes_of_the_same_lines_are_a_conflict(merge):
    one = edited(BASELINE, FIRST)
    two = edited(one, ("x + 10", "x + 100"))
    assert revert(versions(one, two), 1, merge) == Reverted(None, CONFLICT, "later changes touch the same lines")
    assert revert(versions(one, two), 2, merge).source == one


def test_a_constant_that_is_bound_twice_is_merged_as_text(merge):
    one = edited(BASELINE, ("DEPTH = 2**2", "DEPTH = 4\nDEPTH = 5"))
    two = edited(one, THIRD)
    found = revert(versions(one, two), 1, merge)
    assert found.source is not None
    assert read_constants(found.source)["DEPTH"] == 4
    assert found.source.count("DEPTH") == 1


def test_no_text_for_git_is_one_line(tmp_path):
    with pytest.raises(GitError, match="git merge-file failed"):
        Git(tmp_path, os.environ).merge("a\0b", "a\n", "b\n")


def test_a_merge_leaves_the_folder_as_it_is(tmp_path: Path, merge):
    assert merge("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n") == "A\nb\nC\n"
    assert merge("a\n", "b\n", "c\n") is None
    assert list(tmp_path.iterdir()) == []
