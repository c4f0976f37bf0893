"""Several proposals of one call: what waits comes before another call, and nothing of it is lost."""

import dataclasses
import json

import pytest
from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.engine.proposals import kept_proposal
from autoresearch_jax.engine.waiting import WaitingProposals
from autoresearch_jax.proposers.base import Brief, Proposal, ProposalFailed
from autoresearch_jax.proposers.several import SeveralProposer
from autoresearch_jax.types import Metric

LR = ("LR = 0.5", "LR = 0.1")
SMALL_LR = ("LR = 0.5", "LR = 0.2")
DEPTH = ("DEPTH = 4", "DEPTH = 6")
PATTERN = ('PATTERN = "SL"', 'PATTERN = "SSSL"')


def code(edit: tuple[str, str], cost: float = 0.0, champion: str = SOURCE) -> Proposal:
    return Proposal(edit[1], "code", source=champion.replace(*edit), cost_dollars=cost, proposer="agent")


class Agent(ScriptedProposer):
    """Answers each call with several edits of the champion, at a dollar a call; an exception instead of the first."""

    name = "agent"

    def __init__(self, answers, keep_others, is_ahead=False):
        super().__init__([])
        self._answers = list(answers)
        self._keep_others = keep_others
        self._is_ahead = is_ahead

    def propose(self, brief):
        self.briefs.append(brief)
        first, *others = self._answers.pop(0)
        proposals = [code(edit, 1.0, brief.champion_source) for edit in others]
        if isinstance(first, Exception):
            self._keep_others(brief, "", proposals)
            raise first
        proposal = code(first, 1.0, brief.champion_source)
        self._keep_others(brief, proposal.source, proposals)
        return proposal

    def asks_ahead(self, brief):
        return self._is_ahead


@pytest.fixture
def night(bench):
    """Runs a loop with such an agent and returns it; a process with the same folder takes its files over."""

    def run(answers, count, *, is_ahead=False, task=None):
        task = task or FakeTask(noise=0)
        precheck = bench.loop(task)._parts.precheck
        workspace = bench.loop(task)._parts.workspace
        waiting = WaitingProposals(bench.folder, "agent", workspace.merge, lambda text: bench.recorder.notice(text))
        agent = Agent(answers, waiting.keep, is_ahead)
        proposer = SeveralProposer(agent, waiting, precheck.check)
        agent.ended = bench.loop(task, proposer, max_experiments=count, precheck=precheck).run()
        return agent

    return run


@pytest.mark.parametrize("is_ahead", [False, True])
def test_one_call_is_three_experiments_and_costs_once(bench, night, is_ahead):
    agent = night([(LR, DEPTH, PATTERN), (LR,)], 3, is_ahead=is_ahead)
    rows = bench.ledger().experiments()[1:]
    assert len(agent.briefs) == 1
    assert [row.hypothesis for row in rows] == [LR[1], DEPTH[1], PATTERN[1]]
    assert [row.cost_dollars for row in rows] == [1.0, 0.0, 0.0]
    assert {row.proposer for row in rows} == {"agent"}
    assert rows[-1].score == 1.0, "each was kept, and the next was moved to the new champion"
    assert list(bench.folder.waiting.glob("*.json")) == []


def test_what_conflicts_with_the_new_champion_is_stale_and_the_next_one_is_taken(bench, night):
    agent = night([(LR, SMALL_LR, DEPTH), (PATTERN,)], 3)
    rows = bench.ledger().experiments()[1:]
    assert [row.hypothesis for row in rows] == [LR[1], DEPTH[1], PATTERN[1]]
    assert len(agent.briefs) == 2
    (notice,) = [text for text in bench.recorder.notices if "does not fit" in text]
    assert '"LR = 0.2", which agent proposed with others for experiment 1,' in notice
    (stale,) = bench.folder.waiting.glob("*.stale")
    assert json.loads(stale.read_text())["hypothesis"] == "LR = 0.2", "it was paid for, and can be read"


def test_equal_texts_count_once_and_so_does_the_champions(bench, night):
    agent = night([(LR, LR, DEPTH, ("LR", "LR"), PATTERN, DEPTH), (SMALL_LR,)], 4)
    assert len(agent.briefs) == 2
    hypotheses = [row.hypothesis for row in bench.ledger().experiments()[1:]]
    assert hypotheses == [LR[1], DEPTH[1], PATTERN[1], SMALL_LR[1]]


def test_where_the_first_comes_to_nothing_another_of_the_answer_is_proposed(bench, night):
    agent = night([(ProposalFailed("no text", 0.5), DEPTH, LR)], 2)
    rows = bench.ledger().experiments()[1:]
    assert [(row.hypothesis, row.cost_dollars) for row in rows] == [(DEPTH[1], 0.5), (LR[1], 0.0)]
    assert len(agent.briefs) == 1


def test_a_kill_while_another_of_the_answer_is_traced_loses_no_dollars(bench, night):
    class Cut(FakeTask):
        def prepare(self, source, log_dir, **options):
            if "DEPTH = 6" in source:
                raise KeyboardInterrupt
            return super().prepare(source, log_dir, **options)

    assert night([(ProposalFailed("no text", 0.5), DEPTH)], 1, task=Cut(noise=0)).ended.startswith("interrupted")
    assert night([], 1).briefs == []
    assert bench.ledger().experiment(1).cost_dollars == 0.5


def test_a_kill_right_after_one_was_taken_leaves_it_to_its_experiment(bench, night):
    night([(LR, DEPTH, PATTERN)], 1)
    workspace = bench.loop(FakeTask())._parts.workspace
    waiting = WaitingProposals(bench.folder, "agent", workspace.merge, pytest.fail)
    champion = bench.ledger().source(1)
    brief = Brief(2, 0, Metric("loss"), "", (), champion, {}, 1.2, ())
    assert waiting.take(brief).source == champion.replace(*DEPTH)
    assert kept_proposal(bench.folder, 2).proposal.source == SOURCE.replace(*DEPTH), "as it was made"
    assert night([], 3).briefs == []
    assert [row.hypothesis for row in bench.ledger().experiments()[1:]] == [LR[1], DEPTH[1], PATTERN[1]]
    assert bench.ledger().experiments()[-1].score == 1.0


def test_another_answer_to_the_same_brief_replaces_what_waits_of_it(bench, night):
    night([(LR,)], 1)
    notices = []
    waiting = WaitingProposals(bench.folder, "agent", lambda *texts: None, notices.append)
    brief = dataclasses.replace(Brief(2, 0, Metric("loss"), "", (), SOURCE, {}, 1.2, ()), history=first_history(bench))
    waiting.keep(brief, "", [code(DEPTH), code(PATTERN)])
    waiting.keep(brief, "", [])
    assert len(list(bench.folder.waiting.glob("*.json"))) == 2
    waiting.keep(brief, "", [code(PATTERN, 3.0)])
    (path,) = bench.folder.waiting.glob("*.json")
    assert json.loads(path.read_text())["cost_dollars"] == 0.0
    assert WaitingProposals(bench.folder, "another", lambda *texts: None, pytest.fail).take(brief) is None
    path.write_text("{")
    assert waiting.take(brief) is None
    assert str(path) in notices[0]
    assert waiting.take(brief) is None
    assert len(notices) == 1


def first_history(bench):
    agent = ScriptedProposer([moved(LR=0.1)])
    bench.loop(FakeTask(noise=0), agent, max_experiments=2).run()
    return agent.briefs[-1].history
