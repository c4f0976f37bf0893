"""The scores of an audit's trials, and the gains between its subjects."""

import pytest

from autoresearch_jax.audit.log import AuditTrialRow
from autoresearch_jax.audit.scores import on_val, read_scores
from autoresearch_jax.types import Metric, Status


def trial(number: int, subject: str, seed: int, value: float | None) -> AuditTrialRow:
    status = Status.CRASH if value is None else Status.OK
    return AuditTrialRow(number, 1, subject, seed, status, value, None, {}, None)


def test_a_gain_is_between_runs_with_one_seed():
    trials = [trial(seed, "champion", seed, 1.0 + seed / 100) for seed in range(3)]
    trials += [trial(3 + seed, "baseline", seed, 2.0) for seed in range(1, 4)]
    scores = read_scores(trials)
    assert scores.gains("champion", "baseline", on_val, Metric("loss")) == pytest.approx({1: 0.99, 2: 0.98})
    assert scores.mean("champion", on_val) == pytest.approx(1.01)
    assert (scores.runs("champion"), scores.runs("baseline")) == (3, 3)
    assert scores.failures == []


def test_a_metric_that_is_better_when_it_is_larger():
    trials = [trial(1, "champion", 5, 3.0), trial(2, "baseline", 5, 1.0), trial(3, "baseline", 6, None)]
    scores = read_scores(trials)
    assert scores.gains("champion", "baseline", on_val, Metric("accuracy", "maximize")) == {5: 2.0}
    assert scores.mean("nobody", on_val) is None
    assert [failed.id for failed in scores.failures] == [3]
