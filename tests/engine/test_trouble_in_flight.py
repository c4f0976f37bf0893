"""Trouble while several trials run: crashes, a busy machine, a machine that fails."""

import time
from collections.abc import Callable

import pytest
from fakes import FakeTask, ScriptedProposer, moved
from slots import DrawnOrder

from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
from autoresearch_jax.engine.inbox import Inbox
from autoresearch_jax.engine.state import concluded, seconds_spent
from autoresearch_jax.engine.stopping import MachineWaits
from autoresearch_jax.types import TOO_BUSY, CandidateUntouched, Measurement, Metric, Scrutiny, Status

RULE = LineageRule(Metric("loss"))
RUNS = LineageSettings().baseline_runs
BUSY = {TOO_BUSY: True, "attended_share": 0.2}
SLOTS = 4


class Troubled(FakeTask):
    """Some of its measurements, by their number from 0, are something else."""

    def __init__(self, trouble: Callable[[int], Status | None]) -> None:
        super().__init__()
        self._trouble = trouble

    def measure(self, candidate, *, seed, **arguments):
        found, number = super().measure(candidate, seed=seed, **arguments), len(self.measured) - 1
        assert number < 100
        match self._trouble(number):
            case None:
                return found
            case Status.TIMEOUT:
                return Measurement(Status.TIMEOUT, None, seed, BUSY, error="too busy")
            case Status.CRASH:
                return Measurement(Status.CRASH, None, seed, error="made to crash")
            case _:
                raise CandidateUntouched("no process")


def run(bench, task, *script):
    executor = DrawnOrder(task.measure, SLOTS, None)
    bench.loop(task, ScriptedProposer(script), RULE, executor=executor).run()
    return bench.ledger()


def test_no_seed_is_used_twice_where_the_machine_was_too_busy(bench):
    ledger = run(bench, Troubled(lambda number: Status.TIMEOUT if number == 0 else None))
    seeds = [trial.seed for trial in ledger.trials(0) if not trial.was_too_busy]
    assert len(set(seeds)) == len(seeds) == RUNS


def test_waits_count_no_time_twice(bench, monkeypatch):
    begun, counted = time.monotonic(), []

    def wait(self, why, waits, champion, started):
        now = time.monotonic()
        ledger = bench.ledger()
        counted.append((seconds_spent(ledger, concluded(ledger)) + now - started, now - begun))

    monkeypatch.setattr(MachineWaits, "wait", wait)
    script = [moved(LR=round(0.5 + number / 100, 2)) for number in range(12)]
    run(bench, Troubled(lambda number: Status.TIMEOUT if number == RUNS + 5 else None), *script)
    ((seconds, passed),) = counted
    assert seconds <= passed


def test_what_waits_for_another_goes_on_when_that_one_fails(bench):
    bench.loop(max_experiments=0, rule=RULE).run()
    inbox, source = Inbox(bench.ledger()), bench.ledger().source(0)
    for old, new in (("LR = 0.5", "LR = 0.1"), ("DEPTH = 4", "DEPTH = 6")):
        inbox.add(new, "text", None, source.replace(old, new))
    task = Troubled(
        lambda number: Status.CRASH if [*task.scrutinies, Scrutiny.KEEP].index(Scrutiny.KEEP) == number else None
    )
    executor = DrawnOrder(task.measure, SLOTS, None)
    bench.loop(task, ScriptedProposer(()), RULE, executor=executor).measure_text(2)
    ledger = bench.ledger()
    assert not ledger.open_experiments()
    assert [row.decision for row in ledger.experiments()] == [Action.KEEP, Action.DISCARD, Action.KEEP]


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT])
def test_what_one_failure_of_the_machine_ended_is_waited_for_once(bench, status):
    script = [moved(LR=round(0.6 + number / 10, 2)) for number in range(SLOTS)]
    ledger = run(bench, Troubled(lambda number: status if RUNS <= number < RUNS + SLOTS else None), *script)
    assert len([words for words in bench.recorder.notices if "tried again" in words]) == 1
    assert not ledger.open_experiments()
    assert len(ledger.experiments()) == 1 + SLOTS
