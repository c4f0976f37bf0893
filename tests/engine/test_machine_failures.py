"""Failures of the machine before it touched the candidate: nothing is entered as tried, and the run ends or waits."""

import os
import time

import pytest
from fakes import FakeTask, ScriptedProposer, moved
from ledgers import substance

from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
from autoresearch_jax.engine import machine_waits
from autoresearch_jax.engine.task import MAX_FAILURES, RunError
from autoresearch_jax.types import CandidateUntouched, Metric

SETTINGS = LineageSettings()
RULE = LineageRule(Metric("loss"), SETTINGS)
FIRST = SETTINGS.baseline_runs  # number of the first measurement of a candidate, counted from 0
SCRIPT = (moved(LR=0.1), moved(LR=0.9))
WORDS = "starting the process of a trial: exited with status 1: Unknown flag in XLA_FLAGS; see worker.log"


class Broken(FakeTask):
    """Some of its calls, counted from 0 by kind, do not come as far as the candidate."""

    def __init__(self, prepare=(), measure=()):
        super().__init__()
        self._failing = {"prepare": prepare, "measure": measure}
        self._calls = {"prepare": 0, "measure": 0}

    def _count(self, kind):
        self._calls[kind] += 1
        if self._calls[kind] - 1 in self._failing[kind]:
            raise CandidateUntouched(WORDS)

    def prepare(self, source, log_dir, **options):
        self._count("prepare")
        return super().prepare(source, log_dir, **options)

    def measure(self, candidate, **options):
        self._count("measure")
        return super().measure(candidate, **options)


def run(bench, task, **options):
    bench.loop(task, ScriptedProposer(SCRIPT), RULE, **options).run()
    return bench.ledger()


@pytest.fixture
def expected(twin):
    return substance(run(twin, FakeTask()))


@pytest.mark.parametrize("kind", ["prepare", "measure"])
@pytest.mark.parametrize("has_baseline", [False, True])
def test_a_process_that_fails_before_anything_was_measured_ends_at_once(bench, expected, kind, has_baseline):
    if has_baseline:
        run(bench, FakeTask(), max_experiments=0)
    for _ in range(2):
        first = rf"experiment {int(has_baseline)} \({'LR' if has_baseline else 'baseline'}.*\) first"
        with pytest.raises(RunError, match=rf"^{WORDS}; the same command goes on from here, with {first}$"):
            run(bench, Broken(**{kind: range(100)}), first_wait_seconds=3600.0)
        ledger = bench.ledger()
        assert [row.id for row in ledger.open_experiments()] == [int(has_baseline)]
        assert all(trial.status is None for trial in ledger.trials(int(has_baseline)))
        assert ledger.last_ending().startswith(WORDS)
        lines = bench.folder.results.read_text().splitlines() if bench.folder.results.exists() else []
        assert len(lines) <= 1 + has_baseline, "nothing is entered as tried"
    assert substance(run(bench, FakeTask())) == expected


@pytest.mark.parametrize(
    "failing", [{"measure": (FIRST, FIRST + 1)}, {"prepare": (1, 2)}, {"prepare": (1,), "measure": (FIRST,)}]
)
def test_later_it_waits_and_decides_as_if_nothing_had_been(bench, expected, failing):
    ledger = run(bench, Broken(**failing))
    assert substance(ledger) == expected
    notices = [words for words in bench.recorder.notices if words.startswith(WORDS)]
    assert len(notices) == sum(map(len, failing.values()))


def test_each_wait_is_longer_than_the_one_before(bench, monkeypatch):
    waits = []
    monkeypatch.setattr(
        machine_waits.StoppingList, "wait", lambda self, seconds, champion, started: waits.append(seconds)
    )
    run(bench, Broken(measure=(FIRST, FIRST + 1, FIRST + 4)), first_wait_seconds=10.0)
    assert waits == [10.0, 20.0, 10.0]


def test_a_machine_that_does_not_recover_ends_the_run_and_the_experiment_stays_open(bench, expected):
    with pytest.raises(
        RunError, match=rf"^{WORDS}; the same command goes on from here, with experiment 1 \(.*\) first$"
    ):
        run(bench, Broken(measure=range(FIRST, FIRST + MAX_FAILURES)))
    assert bench.ledger().open_experiments()[0].id == 1
    ledger = run(bench, FakeTask())
    assert substance(ledger) == expected
    assert ledger.experiment(1).decision is Action.KEEP


def test_a_wait_ends_with_the_stopping_list(bench, monkeypatch):
    text = bench.program.read_text()
    bench.program.write_text(text.replace("## Stop when\n", "## Stop when\n\n- 1 hours\n", 1))
    now = time.monotonic
    passed = []
    monkeypatch.setattr(machine_waits.time, "monotonic", lambda: now() + 3600.0 * len(passed))
    monkeypatch.setattr(machine_waits.StoppingList, "wait", lambda *arguments: passed.append(True))
    loop = bench.loop(Broken(measure=(FIRST,)), ScriptedProposer(SCRIPT), RULE)
    assert loop.run() == "1 hours reached"
    assert bench.ledger().experiment(1).is_open


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs Linux")
def test_a_trace_ahead_that_failed_so_is_no_objection(bench):
    task = Broken(prepare=(1,))
    precheck = bench.loop(task)._parts.precheck
    found = []

    class Examining(ScriptedProposer):
        def propose(self, brief):
            proposal = super().propose(brief)
            source = brief.champion_source.replace("LR = 0.5", "LR = 0.1")
            found.append(precheck.check(brief, proposal.__class__("LR", "code", source=source)))
            return proposal

    bench.loop(task, Examining(SCRIPT[:1]), RULE, precheck=precheck).run()
    assert found == [None]
    assert bench.ledger().experiment(1).decision is Action.KEEP
