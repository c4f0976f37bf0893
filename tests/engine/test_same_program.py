"""What is about to be kept is prepared a second time, and refused if it is another program then."""

from dataclasses import replace

import pytest
from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import Action, LineageRule
from autoresearch_jax.engine.loop import INTERRUPTED
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.types import Candidate, CandidateRejected, Metric, Status

HELPER = "\n\ndef helper(x):\n    return x + 1\n"
BETTER, WORSE = moved(LR=0.1), moved(LR=0.9)


class Repeating(FakeTask):
    """A task that prepares again; of what is raised for it, the first is raised first."""

    def __init__(self, varies: str = "no such text", *raised: BaseException) -> None:
        super().__init__(noise=0)
        self.again: list[str] = []
        self._varies = varies
        self._raised = list(raised)

    def prepare_again(self, source: str, log_dir) -> Candidate:
        assert log_dir.is_dir()
        self.again.append(source)
        if len(self.again) > 1 and self._raised:  # after the baseline
            raise self._raised.pop(0)
        candidate = self.prepare(source, log_dir)
        return replace(candidate, program_hash="another") if self._varies in source else candidate


def test_only_what_is_about_to_be_kept_is_prepared_again(bench):
    task = Repeating()
    rule = LineageRule(Metric("loss"))
    bench.loop(task, ScriptedProposer([WORSE, BETTER]), rule).run()
    ledger = bench.ledger()
    assert [row.decision for row in ledger.experiments()] == [Action.KEEP, Action.DISCARD, Action.KEEP]
    assert task.again == [ledger.source(0), ledger.source(2)], "once, however many runs it has"


def test_a_text_that_varies_is_not_kept(bench, run_git):
    task = Repeating("LR = 0.1")
    rule = LineageRule(Metric("loss"))
    bench.loop(task, ScriptedProposer([BETTER, moved(LR=0.2)]), rule).run()
    _, refused, kept = bench.ledger().experiments()
    assert (refused.status, refused.decision, refused.score) == (Status.REJECTED, Action.DISCARD, None)
    assert "another program each time: remove what depends on time" in refused.reason
    assert len(bench.ledger().trials(1)) == 1, "no further run was paid for"
    assert (kept.decision, kept.parent) == (Action.KEEP, 0)
    assert run_git(bench.repo, "rev-parse", "autoresearch/night") == kept.commit


def test_a_refactoring_that_varies_is_not_kept(bench, run_git):
    (bench.repo / "train_lib.py").write_text(SOURCE + HELPER)
    run_git(bench.repo, "commit", "-qam", "a helper")
    shorter = SOURCE + "# shorter\n"
    bench.loop(Repeating("# shorter"), ScriptedProposer([Proposal("no helper", "refactoring", source=shorter)])).run()
    row = bench.ledger().experiment(1)
    assert (row.status, row.decision) == (Status.REJECTED, Action.DISCARD)


def test_a_baseline_that_varies_ends_the_run_before_it_is_measured(bench):
    task = Repeating("DEPTH")
    with pytest.raises(RunError, match=r"train_lib.py .* measured \(rejected\): it traces to anoth"):
        bench.loop(task, ScriptedProposer([BETTER])).run()
    assert task.measured == []


def test_a_kill_before_the_second_look_loses_nothing(bench):
    script = ScriptedProposer([BETTER])
    assert bench.loop(Repeating("no such text", KeyboardInterrupt()), script).run() == INTERRUPTED
    assert bench.ledger().experiment(1).is_open
    bench.loop(Repeating(), ScriptedProposer([BETTER])).run()
    row = bench.ledger().experiment(1)
    assert row.decision is Action.KEEP
    assert len(bench.ledger().trials(1)) == 1, "it was measured before"


def test_a_text_that_fails_the_second_time_is_refused_and_the_tasks_own_failure_is_not_its_fault(bench):
    failures = RuntimeError("no process"), CandidateRejected(Status.CRASH, "it failed")
    bench.loop(Repeating("no such text", *failures), ScriptedProposer([BETTER])).run()
    row = bench.ledger().experiment(1)
    assert (row.status, row.reason) == (Status.CRASH, "prepared a second time, before it is kept: it failed")
    assert "no process" in (bench.folder.log_dir(1) / "task_error.txt").read_text()
