"""Failures of the machine before it touched the candidate: nothing is entered as tried, and the run ends or waits."""

import pytest
from fakes import FakeTask, ScriptedProposer, moved
from ledgers import substance

from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
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


@pytest.mark.parametrize(("kind", "has_baseline"), [("prepare", False), ("measure", True)])
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


def test_later_it_waits_and_decides_as_if_nothing_had_been(bench, expected):
    ledger = run(bench, Broken(prepare=(1,), measure=(FIRST, FIRST + 2)))
    assert substance(ledger) == expected
    assert len([words for words in bench.recorder.notices if words.startswith(WORDS)]) == 3


def test_a_machine_that_does_not_recover_ends_the_run_and_the_experiment_stays_open(bench, expected):
    with pytest.raises(
        RunError, match=rf"^{WORDS}; the same command goes on from here, with experiment 1 \(.*\) first$"
    ):
        run(bench, Broken(measure=range(FIRST, FIRST + MAX_FAILURES)))
    assert bench.ledger().open_experiments()[0].id == 1
    ledger = run(bench, FakeTask())
    assert substance(ledger) == expected
    assert ledger.experiment(1).decision is Action.KEEP
