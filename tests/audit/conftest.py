"""Fixtures of runs with a fake task, see benches.py."""

import shutil
from contextlib import ExitStack

import pytest
from audited import GAINS, forget_audits
from benches import Bench, bench, repo, run_git
from fakes import PROGRAM, SOURCE, FakeTask, ScriptedProposer
from repositories import make_repository

__all__ = ["bench", "night", "repo", "run_git"]


@pytest.fixture(scope="module")
def _finished(tmp_path_factory):
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("night") / "repo"
        make_repository(folder, SOURCE, PROGRAM)
        bench = Bench(folder, stack)
        bench.loop(FakeTask(), ScriptedProposer(GAINS)).run()
        yield bench


@pytest.fixture
def night(_finished):
    """A run that kept three changes; the first was moved again by the third. Audits are all that is added to it."""
    yield _finished
    forget_audits(_finished)
    for logs in (_finished.folder.path / "logs").glob("audit-*"):
        shutil.rmtree(logs)
