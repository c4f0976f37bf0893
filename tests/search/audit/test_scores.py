"""Which trials of an audit count, and the gains between its subjects."""

import pytest

from autoresearch_jax.measurement import Metric, Status
from autoresearch_jax.search.audit.log import AuditTrialRow
from autoresearch_jax.search.audit.scores import on_val, read_scores


def trial(number: int, subject: str, seed: int, value: float | None, steps: int = 100) -> AuditTrialRow:
    status = Status.CRASH if value is None else Status.OK
    metrics = {"num_steps": steps, "training_seconds": 10.0}
    return AuditTrialRow(number, 1, subject, seed, status, value, None, metrics, None)


def test_a_trial_on_a_busy_machine_does_not_count_where_time_matters():
    trials = [trial(seed, "champion", seed, 1.0 + seed / 100) for seed in range(3)]
    trials += [trial(3 + seed, "baseline", seed, 2.0, steps=70 if seed == 1 else 50) for seed in range(3)]
    trials += [trial(6, "champion", 3, 9.0, steps=80), trial(7, "baseline", 3, 2.0, steps=50)]
    scores = read_scores(trials, budget_is_seconds=True)
    assert scores.slow == 1
    assert scores.gains("champion", "baseline", on_val, Metric("loss")) == pytest.approx({0: 1.0, 1: 0.99, 2: 0.98})
    assert scores.mean("champion", on_val) == pytest.approx(1.01)
    assert (scores.runs("champion"), scores.runs("baseline")) == (3, 4)
    everything = read_scores(trials, budget_is_seconds=False)
    assert (everything.slow, everything.runs("champion")) == (0, 4)


def test_a_metric_that_is_better_when_it_is_larger():
    trials = [trial(1, "champion", 5, 3.0), trial(2, "baseline", 5, 1.0), trial(3, "baseline", 6, None)]
    scores = read_scores(trials, budget_is_seconds=False)
    assert scores.gains("champion", "baseline", on_val, Metric("accuracy", "maximize")) == {5: 2.0}
    assert scores.mean("nobody", on_val) is None
    assert [failed.id for failed in scores.failures] == [3]
