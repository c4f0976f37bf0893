"""A proposer that comes up with nothing: written down or waited out, and the loop goes on."""

from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.stopping import FAILURES_WITHOUT_WAIT
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import NO_PROPOSAL, ProposalFailed, ServiceDown
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.types import Status


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
    assert (rows[1].cost_dollars, rows[1].constants, rows[1].decision) == (0.25, {}, Action.DISCARD)
    assert bench.ledger().source(1) == SOURCE
    assert bench.ledger().source(3) == bench.ledger().source(2), "the champion's of that time"
    assert run_git(bench.repo, "diff", "--name-only", rows[3].commit, rows[3].parent_commit) == ""
    assert proposer.briefs[-1].history[1].reason == "nothing came of 1"
    assert len(task.measured) == 3
    assert [row.id for row in bench.recorder.ended] == [0, 1, 2, 3, 4]


def test_many_in_a_row_are_waited_out_and_end_no_run(bench):
    proposer = Stumbling(range(1, 8), [None] * 7 + [moved(LR=0.1)])
    assert bench.loop(proposer=proposer, max_experiments=8).run() == "8 experiments reached"
    assert [row.status for row in bench.ledger().experiments()[1:]] == [Status.REJECTED] * 7 + [Status.OK]
    assert [notice.partition(";")[0] for notice in bench.recorder.notices] == [
        f"{n} proposals in a row came to nothing, the last one because: nothing came of {n}" for n in (5, 6, 7)
    ]


def test_failures_that_waiting_would_not_change_are_not_waited_out(bench):
    class Recorded(ScriptedProposer):
        def propose(self, brief):
            raise ProposalFailed("as it was then", worth_waiting=False)

    loop = bench.loop(proposer=Recorded([]), max_experiments=7, first_wait_seconds=3600.0)
    assert loop.run() == "7 experiments reached"


def test_waiting_ends_where_the_stopping_list_says_so(bench):
    bench.program.write_text(bench.program.read_text().replace("8 experiments", "1.5 seconds"))
    loop = bench.loop(proposer=Stumbling(range(100)), first_wait_seconds=60.0)
    assert loop.run() == "1.5 seconds reached"
    assert len(bench.ledger().experiments()) == 1 + FAILURES_WITHOUT_WAIT


class Down(ScriptedProposer):
    """A service that does not answer a few times."""

    def __init__(self, times, retry_seconds=0.0):
        super().__init__([moved(LR=0.1)])
        self._left = times
        self._retry_seconds = retry_seconds

    def propose(self, brief):
        if self._left:
            self._left -= 1
            raise ServiceDown("503 from the service", self._retry_seconds)
        return super().propose(brief)


def test_a_service_that_is_down_is_no_experiment_and_is_asked_again(bench):
    assert bench.loop(proposer=Down(2, retry_seconds=0.3), max_experiments=1).run() == "1 experiments reached"
    assert [row.id for row in bench.ledger().experiments()] == [0, 1]
    assert bench.ledger().experiment(1).seconds > 0.6, "with the time that the service was waited for"
    down, back = bench.recorder.notices
    assert down == "503 from the service: waiting, and asking again until it answers"
    assert back.startswith("the service answers again")


def test_a_service_that_stays_down_is_waited_for_until_the_stopping_list_ends_the_run(bench):
    bench.program.write_text(bench.program.read_text().replace("8 experiments", "1.5 seconds"))
    assert bench.loop(proposer=Down(10**9, retry_seconds=0.2)).run() == "1.5 seconds reached"
    assert [row.id for row in bench.ledger().experiments()] == [0]


def test_an_optimizer_learns_nothing_of_the_champions_constants_from_it(bench):
    bench.loop(proposer=Stumbling({1, 2}), max_experiments=2).run()
    assert bench.loop(proposer=ConstantsProposer(), max_experiments=5).run() == "5 experiments reached"
    assert all(row.status is Status.OK for row in bench.ledger().experiments()[3:])


def test_a_fault_of_a_proposer_ends_no_night_and_its_traceback_is_in_the_logs(bench):
    class Faulty(ScriptedProposer):
        def propose(self, brief):
            if brief.experiment == 1:
                raise ZeroDivisionError("of nobody's\ndoing")
            if brief.experiment == 2:
                raise UserError("brief.md: no room")
            return super().propose(brief)

    proposer = Faulty([None, None, moved(LR=0.1)])
    assert bench.loop(proposer=proposer, max_experiments=3).run() == "3 experiments reached"
    rows = bench.ledger().experiments()
    log = bench.folder.log_dir(1) / "proposer_error.txt"
    assert rows[1].reason == f"scripted failed: ZeroDivisionError: of nobody's doing; see {log}"
    assert "test_failed_proposals.py" in log.read_text()
    assert (rows[2].reason, rows[3].status) == ("brief.md: no room", Status.OK)
