"""A proposer that comes up with nothing: written down, and the loop goes on, but not for ever."""

from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.measurement import Status
from autoresearch_jax.proposers.base import NO_PROPOSAL, ProposalFailed
from autoresearch_jax.proposers.optuna import OptunaProposer
from autoresearch_jax.search.loop import MAX_FAILED_PROPOSALS
from autoresearch_jax.search.records import Verdict


class Stumbling(ScriptedProposer):
    """Fails at some experiments."""

    def __init__(self, fails_at, proposals=()):
        super().__init__(proposals)
        self._fails_at = fails_at

    def propose(self, brief):
        if brief.experiment in self._fails_at:
            self.briefs.append(brief)
            raise ProposalFailed(f"nothing\ncame of {brief.experiment}", cost_dollars=0.25)
        return super().propose(brief)


def test_a_failed_proposal_is_an_experiment_that_was_rejected(bench, run_git):
    proposer = Stumbling({1, 3}, [None, moved(LR=0.1), None, moved(DEPTH=5)])
    task = FakeTask(noise=0)
    assert bench.loop(task, proposer, max_experiments=4).run() == "4 experiments reached"
    rows = bench.ledger().experiments()
    assert [row.status for row in rows] == [Status.OK, Status.REJECTED, Status.OK, Status.REJECTED, Status.OK]
    assert (rows[1].reason, rows[1].hypothesis, rows[1].category) == ("nothing came of 1", NO_PROPOSAL, NO_PROPOSAL)
    assert (rows[1].cost_dollars, rows[1].constants, rows[1].decision) == (0.25, {}, Verdict.DISCARD)
    assert bench.ledger().source(1) == SOURCE
    assert bench.ledger().source(3) == bench.ledger().source(2), "the champion's of that time"
    assert run_git(bench.repo, "diff", "--name-only", rows[3].commit, rows[3].parent_commit) == ""
    assert proposer.briefs[-1].history[1].reason == "nothing came of 1"
    assert len(task.measured) == 3
    assert [row.id for row in bench.recorder.ended] == [0, 1, 2, 3, 4]


def test_too_many_in_a_row_end_the_run_and_another_start_counts_anew(bench):
    proposer = Stumbling(range(100))
    reason = bench.loop(proposer=proposer, max_experiments=50).run()
    assert reason == (
        f"{MAX_FAILED_PROPOSALS} proposals in a row came to nothing, the last one because: nothing came of 5"
    )
    assert bench.ledger().last_ending() is not None
    again = Stumbling(range(9), [None] * 8 + [moved(LR=0.1)])
    assert bench.loop(proposer=again, max_experiments=9).run() == "9 experiments reached"
    assert bench.ledger().experiments()[-1].status is Status.OK


def test_only_failures_in_a_row_count(bench):
    failing = set(range(1, 12)) - {4, 9}
    proposer = Stumbling(failing, [moved(LR=0.5 - n / 100) for n in range(12)])
    assert bench.loop(proposer=proposer, max_experiments=11).run() == "11 experiments reached"


def test_an_optimizer_learns_nothing_of_the_champions_constants_from_it(bench):
    bench.loop(proposer=Stumbling({1, 2}), max_experiments=2).run()
    assert bench.loop(proposer=OptunaProposer(), max_experiments=5).run() == "5 experiments reached"
    assert all(row.status is Status.OK for row in bench.ledger().experiments()[3:])
