"""A night whose asset is a TOML file: its constants are moved, and what was kept by luck is taken out again."""

from dataclasses import replace

import pytest
from fakes import FakeTask
from kills import git_differences

from autoresearch_jax.assets.kinds import kind_of, stored_kind
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import LineageRule
from autoresearch_jax.edits import Edit, apply_edits
from autoresearch_jax.engine.certifying import REVERT
from autoresearch_jax.engine.constants_table import fit_row
from autoresearch_jax.engine.integrity import ledger_page_differences
from autoresearch_jax.engine.plan import draw_seed
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.engine.state import ASSET
from autoresearch_jax.proposers.answers import read_answer
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.proposers.briefing import write_brief
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.space import Choices, Constant
from autoresearch_jax.types import Metric, Status

TOML = kind_of("settings.toml")
SOURCE = """\
# Settings of the search; the comments stay.
[model]  # what is trained
depth = 4      # best at 6
pattern = "SL"

[model.schedule]
lr = 0.5       # best at 0.1

[task]
fault = ""
"""
PROGRAM = """\
# Instructions

## Constants

| constant | values | note |
|---|---|---|
| `model.schedule.lr` | 0.01 .. 1 log | step size |
| model.depth | 2 .. 8 | layers |
| model.pattern | SL, SSSL, L | windows |
| model.gone | 1 .. 2 | is not there |

## Stop when

- 100 experiments
"""
SIGMA = 0.001  # of the task
LUCKY = SOURCE.replace('fault = ""\n', 'fault = ""\ntrick = true\n')
# The same values, with other comments, layout and order.
SAME = "task = {fault = \"\"}\n[model.schedule]\nlr = 5e-1\n[model]\npattern = 'SL'\ndepth = 4\n"


class Lucky(FakeTask):
    """The trick makes a program worse by 3 sigma, and its runs as a candidate better by 4."""

    def measure(self, candidate, *, seed, log_dir, **arguments):
        found = super().measure(candidate, seed=seed, log_dir=log_dir, **arguments)
        if "TRICK" not in self.constants(candidate.source):
            return found
        own_seeds = {draw_seed(0, int(log_dir.name), number) for number in range(20)}  # the others are the champion's
        has_luck = seed not in own_seeds and self.constants(candidate.source)["LR"] == 0.5
        return replace(found, value=found.value + (-4 if has_luck else 3) * SIGMA)


class Scripted:
    """A change that nothing comes of, a lucky one, then those of the constants proposer."""

    name = "scripted"
    asks_ahead = ConstantsProposer.asks_ahead

    def __init__(self):
        self._constants = ConstantsProposer()
        self.briefs = []

    def propose(self, brief):
        self.briefs.append(brief)
        number = sum(outcome.category != REVERT for outcome in brief.history)
        if number <= 2:
            return Proposal("in other words", "text", source=(SAME, LUCKY)[number - 1])
        return replace(self._constants.propose(brief), proposer="constants")

    def close(self):
        self._constants.close()


def test_truth_values_are_written_as_the_format_has_them():
    row = fit_row(Constant("a.on", Choices(("true", "false"))), TOML.constants("[a]\non = true\n"))
    assert row.values == Choices((True, False))
    assert fit_row(row, {"a.on": False}) == row


def test_a_night_on_a_toml_file(bench, run_git):
    (bench.repo / "settings.toml").write_text(SOURCE)
    bench.program.write_text(PROGRAM)
    run_git(bench.repo, "add", "settings.toml")
    run_git(bench.repo, "commit", "-qam", "settings")
    bench = replace(bench, editable="settings.toml", asset=TOML)
    proposer = Scripted()
    certification = CertificationSettings(share=0.4, every=2)
    rule = LineageRule(Metric("loss"), fresh_runs=3)
    bench.loop(Lucky(asset=TOML), proposer, rule, max_experiments=9, certification=certification).run()
    ledger = bench.ledger()
    rows = ledger.experiments()
    assert stored_kind(ledger.settings(), ASSET) == TOML
    assert any("no constant model.gone" in notice for notice in bench.recorder.notices)

    # The same values in other words are no other program: nothing is measured.
    assert (rows[1].status, ledger.trials(1)) == (Status.DUPLICATE, [])
    assert rows[1].program_hash == rows[0].program_hash
    # The proposer moves dotted names; a keep writes them in their places and leaves the comments.
    kept = [row for row in rows if row.proposer == "constants" and row.decision == "keep"]
    assert kept, "one is better"
    (revert,) = (row for row in rows if row.kind is Kind.REVERT and row.decision == "keep")
    assert revert.without == (2,)
    champion = next(row for row in reversed(rows) if row.decision == "keep")
    values = {row.name: champion.constants[row.name] for row in proposer.briefs[-1].space}
    assert set(values) == {"model.schedule.lr", "model.depth", "model.pattern"}
    assert ledger.source(champion.id) == TOML.set_constants(SOURCE, values), "without the trick, with its comments"
    assert (bench.folder.workspace / "settings.toml").read_text() == ledger.source(champion.id)
    assert git_differences(bench.repo) == []
    assert ledger_page_differences(bench.folder.ledger) == []

    # What an agent reads, and what it may answer.
    brief = replace(proposer.briefs[0], contract="Tables as they are.")
    page = write_brief(brief, "Answer.", 24_000)
    assert "```toml\n# Settings" in page
    assert "The contract of the TOML file" in page
    assert "training file" not in page
    answer = '{"hypothesis": "deeper", "edits": [{"search": "depth = 4 # best at 6", "replace": "depth = 6"}]}'
    assert read_answer(answer, brief)[2] == SOURCE.replace("depth = 4      # best at 6", "depth = 6")
    with pytest.raises(Exception, match="line 3 of the result: Invalid value"):
        apply_edits(SOURCE, [Edit("depth = 4      # best at 6", "depth = = 6")], TOML)
