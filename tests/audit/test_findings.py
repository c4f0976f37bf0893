"""The scores of an audit, how sure their means are, and what gains on val and on the holdout say together."""

import json
import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from autoresearch_jax.audit.findings import (
    AuditVerdict,
    Interval,
    Reading,
    holdout_findings,
    items_of_val,
    on_val,
    read_change,
    read_holdout,
    read_scores,
    read_transfer,
    t_interval,
)
from autoresearch_jax.decide.noise import item_variance
from autoresearch_jax.engine.records import AuditTrial
from autoresearch_jax.types import HOLDOUT_ITEMS, HOLDOUT_SCORE, Metric, Status

RUNS = 6
SIMULATIONS = 2000


def test_the_interval_is_students():
    found = t_interval([0.9, 1.1, 1.3, 0.7])
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    margin = 3.182446 * 0.2581989 / 2  # the table's quantile for 3 degrees of freedom, the deviation, the root of 4
    assert (found.low, found.high) == (pytest.approx(1 - margin), pytest.approx(1 + margin))


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_value_has_no_interval(values):
    assert t_interval(values) is None


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3])
def test_equal_values_have_an_interval_without_width(value):
    assert t_interval([value] * 7) == Interval(value, value, value)


def around(mean: float, spread: float = 0.01) -> list[float]:
    return [mean - spread, mean, mean + spread, mean - spread / 2, mean + spread / 2]


NOISY = 1.0  # a spread that leaves all open


@pytest.mark.parametrize(
    ("val", "holdout", "word", "says"),
    [
        (around(0.1), around(0.09), AuditVerdict.REAL, "shows 90% of the gain on val"),
        (around(0.1), around(0.12), AuditVerdict.REAL, "shows 120% of the gain on val"),
        (around(0.1, NOISY), around(0.09), AuditVerdict.REAL, "val shows it less clearly"),
        (around(0.1), around(0.02), AuditVerdict.SMALLER, "only 20% of the gain on val is left"),
        (around(0.1), around(0.0), AuditVerdict.WORN_OUT, "the validation set is worn out"),
        (around(0.1), around(0.06, NOISY), AuditVerdict.UNDECIDED, "ask with more --runs"),
        (around(0.1), around(-0.1), AuditVerdict.WORSE, "on the holdout, although val improved"),
        (around(0.0), around(-0.1), AuditVerdict.WORSE, "worse than the baseline on the holdout"),
        (
            around(0.0),
            around(0.0),
            AuditVerdict.NO_GAIN,
            "nor on the holdout; one of up to 0.0098 may hide in the noise",
        ),
        (
            around(-0.1),
            around(0.0),
            AuditVerdict.NO_GAIN,
            "worse than the baseline on val, and no better on the holdout",
        ),
        ([0.1] * 3, [0.09] * 3, AuditVerdict.REAL, "shows 90%"),
        ([0.1] * 3, [0.0] * 3, AuditVerdict.WORN_OUT, "worn out"),
        ([0.0] * 3, [0.0] * 3, AuditVerdict.NO_GAIN, "nor on the holdout"),
        ([0.1], [0.09], AuditVerdict.NOT_MEASURED, "fewer than two seeds"),
        ([], [], AuditVerdict.NOT_MEASURED, "fewer than two seeds"),
    ],
)
def test_each_case_of_a_reading(val, holdout, word, says):
    reading = read_holdout(val, holdout)
    assert reading.word is word
    assert says in reading.sentence
    assert (reading.holdout is None) == (word is AuditVerdict.NOT_MEASURED)


def simulated(val_gain: float, holdout_gain: float) -> Counter:
    """AuditVerdicts that are said of gains like these, in standard deviations of one run of one program.

    Half of the variance of a run is common to both splits: it is one and the same trained model.
    """
    draw = random.Random(1)

    def reading() -> Reading:
        common = [draw.gauss(0, 1) for _ in range(RUNS)]  # the difference of two runs, of half the variance each
        val = [val_gain + noise + draw.gauss(0, 1) for noise in common]
        holdout = [holdout_gain + noise + draw.gauss(0, 1) for noise in common]
        return read_holdout(val, holdout)

    return Counter(reading().word for _ in range(SIMULATIONS))


@pytest.mark.parametrize(("holdout_gain", "least"), [(6, 0.99), (5, 0.98)])
def test_an_honest_gain_is_called_real(holdout_gain, least):
    assert simulated(6, holdout_gain)[AuditVerdict.REAL] > least * SIMULATIONS


def test_a_gain_on_val_only_is_called_worn_out():
    words = simulated(6, 0)
    assert words[AuditVerdict.WORN_OUT] > 0.9 * SIMULATIONS
    assert words[AuditVerdict.REAL] < 0.005 * SIMULATIONS, "an interval on either side of nothing, and a high one"


def test_of_a_gain_that_is_mostly_wear_the_rest_is_told():
    words = simulated(20, 4)
    assert words[AuditVerdict.SMALLER] > 0.9 * SIMULATIONS
    assert words[AuditVerdict.REAL] == 0


def test_nothing_is_called_a_gain_as_seldom_as_the_intervals_say():
    words = simulated(0, 0)
    assert words[AuditVerdict.NO_GAIN] > 0.9 * SIMULATIONS
    assert words[AuditVerdict.REAL] + words[AuditVerdict.SMALLER] < 0.04 * SIMULATIONS  # 2.5 % on either side
    assert words[AuditVerdict.WORN_OUT] < 0.03 * SIMULATIONS


def test_what_a_change_is_worth():
    gain, loss, open_ = Interval(2, 1, 3), Interval(-2, -3, -1), Interval(0, -1, 1)
    assert [read_change(found, kept_for_score=True) for found in (gain, loss, open_, None)] == [
        "earns its place",
        "costs",
        "in doubt",
        "not measured",
    ]
    assert read_change(open_, kept_for_score=False) == "no loss seen"
    assert read_change(loss, kept_for_score=False) == "costs"


def test_whether_a_gain_holds_elsewhere():
    words = [
        read_transfer(gain, "at DEPTH 8")
        for gain in (Interval(2, 1, 3), Interval(-2, -3, -1), Interval(0, -1, 1), None)
    ]
    assert [word for word, _ in words] == ["holds", "reversed", "undecided", "not measured"]
    assert words[0][1] == "the champion is better than the baseline at DEPTH 8, too"


def trial(number: int, subject: str, seed: int, value: float | None) -> AuditTrial:
    status = Status.CRASH if value is None else Status.OK
    return AuditTrial(number, 0, seed, 0.0, 1.0, status, value, {}, None, None, subject=subject, audit=1)


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


@pytest.mark.parametrize(("right", "word"), [(60, AuditVerdict.NO_GAIN), (95, AuditVerdict.REAL)])
def test_a_score_without_noise_of_seeds_has_the_error_of_its_test_items(right: int, word: AuditVerdict) -> None:
    """Of 100 items 50 are right with the baseline, and other ones with the champion: each seed says the same."""
    answers = {"baseline": [1] * 50 + [0] * 50, "champion": [0] * (100 - right) + [1] * right}
    trials = []
    for number, (subject, seed) in enumerate((subject, seed) for subject in answers for seed in (1, 2)):
        items, score = json.dumps(answers[subject]), sum(answers[subject]) / 100
        metrics = {HOLDOUT_SCORE: score, HOLDOUT_ITEMS: items}
        trials.append(replace(trial(number, subject, seed, score), metrics=metrics, items=items))
    scores = read_scores(trials)
    error = scores.item_error("champion", "baseline", items_of_val)
    assert error == pytest.approx(math.sqrt(item_variance(answers["champion"], answers["baseline"])))
    found = holdout_findings(scores, Metric("accuracy", "maximize"), None).figures
    assert found["verdict"] == word
    low, high = found["gain_holdout_low"], found["gain_holdout_high"]
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert high - low == pytest.approx(2 * 1.959964 * error)
