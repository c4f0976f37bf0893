"""Trials that other work on the machine ended: written down, no verdict, and run again."""

import itertools
import time
from dataclasses import replace

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
from autoresearch_jax.engine import stopping
from autoresearch_jax.engine.loop import INTERRUPTED
from autoresearch_jax.engine.records import Purpose
from autoresearch_jax.types import ATTENDED_SHARE as SHARE
from autoresearch_jax.types import TOO_BUSY, Measurement, Metric, Scrutiny, Status

SETTINGS = LineageSettings()
RULE = LineageRule(Metric("loss"), SETTINGS)
BETTER, DOUBTFUL, WORSE = moved(LR=0.1), moved(LR=0.499), moved(LR=0.9)
FIRST = SETTINGS.baseline_runs  # number of the first measurement of a candidate, counted from 0
BUSY = "the machine was too busy: 24% attended"


class Crowded(FakeTask):
    """Some of its measurements, counted from 0, end because the machine is busy."""

    def __init__(self, *busy: int) -> None:
        super().__init__()
        self._busy = busy

    def measure(self, candidate, *, seed, **arguments):
        found = super().measure(candidate, seed=seed, **arguments)
        if len(self.measured) - 1 not in self._busy:
            return found
        return Measurement(Status.TIMEOUT, None, seed, {TOO_BUSY: True, "attended_share": 0.24}, error=BUSY)


def substance(ledger):
    """What came of a run, without the trials that the machine was too busy for, and without times.

    A rule that is asked again, since a trial came to nothing, says the same again.
    """
    rows = [(row.id, row.program_hash, row.status, row.score, row.decision, row.reason) for row in ledger.experiments()]
    runs = [(run.experiment, run.seed, run.value, run.purpose) for run in ledger.trials() if not run.was_too_busy]
    decisions = [decision for row in rows for decision in ledger.decisions(row[0])]
    return rows + runs + [decision for decision, _ in itertools.groupby(decisions)]


def run(bench, task: FakeTask, *script, rule=RULE, **options):
    bench.loop(task, ScriptedProposer(script), rule, **options).run()
    return bench.ledger()


@pytest.mark.parametrize("busy", [(FIRST, FIRST + 1, FIRST + 2), (FIRST + 1,)])
def test_a_candidate_is_measured_again_with_the_same_seed_and_decided_as_if_nothing_had_been(bench, twin, busy):
    """The last one is the second trial of a candidate that needs several."""
    ledger = run(bench, Crowded(*busy), DOUBTFUL, WORSE)
    assert substance(ledger) == substance(run(twin, FakeTask(), DOUBTFUL, WORSE))
    candidates = [trial for trial in ledger.trials(1) if trial.purpose is Purpose.CANDIDATE]
    crowded = [trial for trial in candidates if trial.was_too_busy]
    assert [(trial.status, trial.value, trial.error) for trial in crowded] == [(Status.TIMEOUT, None, BUSY)] * len(busy)
    for trial in crowded:
        again = next(other for other in candidates if other.id > trial.id and not other.was_too_busy)
        assert again.seed == trial.seed
    assert len([words for words in bench.recorder.notices if words.startswith(BUSY)]) == len(busy)


def test_a_new_champion_is_looked_at_as_hard_as_ever(bench):
    """Its first run is probed at every row; a run that did not come so far is not that one."""
    quiet = FakeTask()
    run(bench.with_tag("quiet"), quiet, BETTER)
    first_fresh = quiet.scrutinies.index(Scrutiny.KEEP, 1)
    task = Crowded(0, first_fresh + 1)
    ledger = run(bench, task, BETTER)
    looked_at = [seed for (_, seed), scrutiny in zip(task.measured, task.scrutinies, strict=True) if scrutiny == "keep"]
    for experiment in (0, 1):
        finished = [trial for trial in ledger.trials(experiment) if not trial.was_too_busy]
        fresh = next(trial for trial in finished if trial.purpose is Purpose.CHAMPION)
        assert fresh.seed in looked_at


def test_each_wait_is_longer_than_the_one_before_and_a_success_begins_anew(bench, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(stopping.StoppingList, "wait", lambda self, seconds, champion, started: waits.append(seconds))
    run(bench, Crowded(FIRST, FIRST + 1, FIRST + 2, FIRST + 4), BETTER, first_wait_seconds=10.0)
    assert waits == [10.0, 20.0, 40.0, 10.0]


def test_a_busy_machine_does_not_keep_a_run_beyond_its_stopping_list(bench):
    text = bench.program.read_text()
    bench.program.write_text(text.replace("## Stop when\n", "## Stop when\n\n- 2 seconds\n", 1))
    loop = bench.loop(Crowded(*range(FIRST, 10_000)), ScriptedProposer([BETTER]), RULE, first_wait_seconds=30.0)
    assert "2 seconds" in loop.run()
    ledger = bench.ledger()
    assert ledger.experiment(1).is_open
    assert all(trial.was_too_busy for trial in ledger.trials(1))
    assert ledger.trials(1)


@pytest.mark.parametrize("share", [0.24, 0.99])
def test_a_candidate_that_is_slow_although_it_is_alone_is_given_up_after_a_few_tries(bench, share):
    class Slow(Crowded):
        def measure(self, candidate, **arguments):
            found = super().measure(candidate, **arguments)
            return found if found.value is not None else replace(found, metrics={**found.metrics, SHARE: share})

    ledger = run(bench, Slow(*range(FIRST, FIRST + 5)), BETTER)
    row = ledger.experiment(1)
    if share == 0.24:
        assert (row.decision, sum(trial.was_too_busy for trial in ledger.trials(1))) == (Action.KEEP, 5)
    else:
        assert (row.status, row.decision) == (Status.TIMEOUT, Action.DISCARD)
        assert [trial.was_too_busy for trial in ledger.trials(1)] == [True, True, False]


def test_a_run_that_is_told_to_end_while_it_waits_goes_on_with_the_same_trial(bench, twin, run_git, monkeypatch):
    def interrupt(seconds: float) -> None:
        if seconds:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupt)
        loop = bench.loop(Crowded(FIRST), ScriptedProposer([BETTER, WORSE]), RULE, first_wait_seconds=600.0)
        assert loop.run() == INTERRUPTED
    assert bench.ledger().open_trials() == []
    assert bench.ledger().experiment(1).is_open
    ledger = run(bench, FakeTask(), BETTER, WORSE)
    assert substance(ledger) == substance(run(twin, FakeTask(), BETTER, WORSE))
    messages = [run_git(each.repo, "log", "-1", "--format=%B", "autoresearch/night") for each in (bench, twin)]
    assert messages[0] == messages[1], "which counts no run that came to nothing"
    crowded, again = ledger.trials(1)[:2]
    assert (crowded.was_too_busy, again.was_too_busy) == (True, False)
    assert crowded.seed == again.seed


def test_a_trial_that_only_took_too_long_is_a_verdict(bench):
    class Slow(Crowded):
        def measure(self, candidate, **arguments):
            found = super().measure(candidate, **arguments)
            return found if found.value is not None else replace(found, metrics={}, error="judge took too long")

    ledger = run(bench, Slow(FIRST), BETTER)
    row = ledger.experiment(1)
    assert (row.status, row.decision, len(ledger.trials(1))) == (Status.TIMEOUT, Action.DISCARD, 1)
