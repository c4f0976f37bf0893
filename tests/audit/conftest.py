"""Fixtures of runs with a fake task, see benches.py."""

import pytest
from audited import GAINS
from benches import bench, repo, run_git, twin
from fakes import FakeTask, ScriptedProposer

__all__ = ["bench", "night", "repo", "run_git", "twin"]


@pytest.fixture
def night(bench):
    """A run that kept three changes; the first was moved again by the third."""
    bench.loop(FakeTask(), ScriptedProposer(GAINS)).run()
    return bench
