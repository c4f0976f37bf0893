"""Changes of agents that are kept although they take a constant from the optimizer: the run goes on, here and later."""

import os

import pytest
from fakes import SOURCE, FakeTask

from autoresearch_jax.assets.python_constants import read_constants
from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.proposers import make_proposer
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.proposers.command import Agent


class Rewarding(FakeTask):
    """Each further change of the source is better."""

    def score(self, constants):
        return 1.0 - 0.1 * sum(constants.get(name) != value for name, value in read_constants(SOURCE).items())


class Alternating:
    """An agent's text first; then the optimizer, whose brief is remembered."""

    name = "agent"

    def __init__(self, source: str) -> None:
        self._source = source
        self.spaces: list[list[str]] = []

    def propose(self, brief):
        self.spaces.append([row.name for row in brief.space])
        if brief.experiment == 1:
            return Proposal("an idea", "code", source=self._source)
        return Proposal("a move", "constants", {"LR": 0.3 + brief.experiment / 100}, proposer="constants")

    def asks_ahead(self, brief):
        return False

    def close(self):
        pass


@pytest.mark.parametrize(
    ("old", "new", "space"),
    [
        ("DEPTH = 4", "DEPTH = 40", ["LR", "PATTERN"]),
        ('PATTERN = "SL"', "", ["LR", "DEPTH"]),
    ],
)
def test_the_run_goes_on_and_so_does_the_same_command(bench, old, new, space):
    source = SOURCE.replace(old, new)
    for experiments in (2, 3):
        proposer = Alternating(source)
        assert bench.loop(Rewarding(noise=0), proposer, max_experiments=experiments).run()
        assert proposer.spaces[-1] == space
    rows = bench.ledger().experiments()
    assert [row.status for row in rows] == ["ok"] * 4
    assert rows[1].decision is Action.KEEP
    lost = 3 - len(space)
    assert len([line for line in bench.recorder.notices if "the optimizer leaves it alone" in line]) == 2 * lost


def test_a_constant_that_the_human_moved_out_of_its_row_is_not_lost(bench):
    bench.program.write_text(bench.program.read_text().replace("DEPTH | 2 .. 8", "DEPTH | 5 .. 8"))
    proposer = Alternating(SOURCE.replace("LR = 0.5", "LR = 0.4"))
    bench.loop(Rewarding(noise=0), proposer, max_experiments=2).run()
    assert proposer.spaces == [["LR", "DEPTH", "PATTERN"]] * 2
    assert bench.recorder.notices == []


AGENT = r"""
echo call >> "$CALLS"
sed -i 's/^DEPTH = .*/DEPTH = 40/' train_lib.py
grep -q 'not within 2 .. 8' BRIEF.md && echo told || echo deeper
"""


def test_an_agent_is_told_once_before_its_text_is_measured(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    task = Rewarding(noise=0)
    precheck = Precheck(task, bench.folder)
    who = ProposerSettings("command", Agent(AGENT, repair_rounds=5))
    proposer = make_proposer(who, bench.workspace(), bench.folder, os.environ, precheck.check, bench.recorder)
    bench.loop(task, proposer, precheck=precheck, max_experiments=1).run()
    assert (tmp_path / "calls").read_text().count("call") == 2
    row = bench.ledger().experiments()[1]
    assert (row.hypothesis, row.status, row.decision) == ("told", "ok", Action.KEEP)
    assert len(task.measured) == 2, "once of the baseline, once of this"
