"""Which kept edits are called improvements, which are reverted, and what that costs."""

import random
from copy import deepcopy
from functools import cache

import pytest
from lineages import METRIC, SIGMA, Night, begun, enter

from autoresearch_jax.decide.certification import (
    CERTAIN,
    CertificationSettings,
    MeasureChampion,
    Revert,
    certified,
    decide_revert,
    next_step,
    wanted_runs,
)
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.errors import UsageError

MOST = CertificationSettings(share=0.9, every=3)


def one_of_each(seed: int) -> Night:
    """A night with a keep that was luck, then a true one of 4 sigma, each with two further runs."""
    night = Night(seed)
    for gain, lucky_by in ((0.0, 2.0), (4.0, 0.0)):
        night.keep(gain, lucky_by)
        for _ in range(2):
            night.measure_champion()
    return night


def test_a_lucky_keep_is_not_certified_and_a_real_one_is():
    lucky, real, losses = 0, 0, 0.0
    for seed in range(10):
        night = one_of_each(seed)
        night.certify(MOST)
        found = certified(night.lineage)
        assert set(found) <= night.lineage.champion
        assert all(CERTAIN <= probability <= 1 + 1e-9 for probability in found.values())
        lucky += 1 in found
        real += 2 in found
        losses += 4.0 - night.true_gain
    assert lucky <= 2
    assert real >= 9
    assert losses == 0, "none that is worth 4 sigma is reverted"


@pytest.mark.parametrize(
    ("kept", "without", "action"),
    [([9.85, 9.95], 9.7, Action.KEEP), ([9.6, 9.5, 9.55], 10.0, Action.DISCARD)],
)
def test_an_edit_that_is_not_missed_is_reverted_and_one_that_is_missed_stays(kept, without, action):
    lineage = begun([10.0, 10.1, 9.9, 10.05, 9.95])
    enter(lineage, 1, kept, kept=True)
    lineage.begin(2, without=(1,))
    decision = None
    while decision is None or decision.action is Action.MEASURE_CANDIDATE:
        lineage.observe(2, without)
        decision = decide_revert(lineage, 2, METRIC)
        assert lineage.num_runs < 20
    assert decision.action is action
    assert decision.gain is not None
    assert (decision.gain.mean > 0) is action.keeps
    lineage.conclude(2, kept=action.keeps)
    assert (1 in lineage.champion) is not action.keeps


@pytest.mark.parametrize("run", [5.0, 15.0])
def test_no_group_is_decided_by_one_run(run):
    lineage = one_of_each(0).lineage
    lineage.begin(9, without=(1,))
    lineage.observe(9, run)
    assert decide_revert(lineage, 9, METRIC).action is Action.MEASURE_CANDIDATE


@cache
def _searched(seed: int) -> Night:
    night = Night(seed)
    night.search(110, lambda draw: draw.choice([3.0, 0.0, 0.0, 0.0, -2.0, -2.0, -2.0, -2.0]))
    return night


def searched(seed: int) -> Night:
    """The night of a search in which each eighth edit is good."""
    return deepcopy(_searched(seed))


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_its_share_of_runs_is_never_exceeded_and_no_edit_is_taken_out_twice(share):
    night = searched(0)
    before = night.true_gain
    night.certify(CertificationSettings(share=share))
    assert night.spent <= share * night.lineage.num_runs + 3, "the runs of the last group"
    taken_out = [edit for group in night.taken_out for edit in group]
    assert len(taken_out) == len(set(taken_out))
    assert night.true_gain >= before - 3


def test_of_a_whole_night_hardly_an_edit_without_effect_is_certified():
    improvements, others, missed = 0, 0, 0
    for seed in range(2):
        night = searched(seed)
        night.certify(CertificationSettings())
        found = certified(night.lineage)
        improvements += sum(night.gains[number] > 0 for number in found)
        others += sum(night.gains[number] <= 0 for number in found)
        missed += sum(night.gains[number] > 0 for number in night.lineage.champion - set(found))
    assert improvements >= 5
    assert others <= 0.15 * improvements
    assert missed <= improvements


def test_a_doubtful_edit_is_taken_out_once():
    night = Night(0)
    night.keep(0.0, lucky_by=2.5)
    for _ in range(12):
        night.measure_champion()
    lineage = night.lineage
    assert next_step(lineage, (), 0, MOST, at_end=False) == Revert((1,))
    assert next_step(lineage, (1,), 0, MOST, at_end=False) is None
    assert wanted_runs(lineage, (1,), 0, MOST) < wanted_runs(lineage, (), 0, MOST)


def test_without_doubt_there_is_nothing_to_do():
    lineage = begun()
    assert next_step(lineage, (), 0, MOST, at_end=False) is None
    assert certified(lineage) == {}
    draw = random.Random(0)
    enter(lineage, 1, [9.0 + draw.gauss(0, SIGMA) for _ in range(20)], kept=True)
    assert next_step(lineage, (), 0, MOST, at_end=False) is None
    assert next_step(lineage, (), 0, MOST, at_end=True) is None, "the champion is known"
    assert wanted_runs(lineage, (), 0, MOST) == 0
    assert set(certified(lineage)) == {1}


def test_at_the_end_of_the_night_the_champion_is_measured_until_it_is_known():
    night = Night(0)
    night.keep(4.0)
    assert next_step(night.lineage, (), 0, MOST, at_end=False) is None
    assert next_step(night.lineage, (), 0, CertificationSettings(share=0.3), at_end=True) == MeasureChampion()
    error = night.lineage.posterior.score(night.lineage.champion).error
    night.certify(MOST)
    assert night.lineage.posterior.score(night.lineage.champion).error < error


def test_without_noise_every_keep_is_certified_and_no_run_is_spent():
    lineage = begun([1.5] * 3)
    for number in range(1, 6):
        enter(lineage, number, [1.5 - number / 8], kept=True)
    assert set(certified(lineage)) == {1, 2, 3, 4, 5}
    assert next_step(lineage, (), 0, MOST, at_end=True) is None
    assert wanted_runs(lineage, (), 0, MOST) == 0


def test_an_edit_that_was_taken_out_is_certified_no_more():
    lineage = begun()
    draw = random.Random(0)
    enter(lineage, 1, [9.0 + draw.gauss(0, SIGMA) for _ in range(6)], kept=True)
    assert set(certified(lineage)) == {1}
    lineage.begin(2, without=(1,))
    lineage.observe(2, 10.0)
    lineage.conclude(2, kept=True)
    assert certified(lineage) == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"share": 1.0}, "--certify_share"),
        ({"share": float("nan")}, "--certify_share"),
        ({"every": -1}, "--certify_every"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(change, named):
    with pytest.raises(UsageError, match=named):
        CertificationSettings(**change)


def test_the_error_of_test_items_is_not_measured_away():
    lineage = begun([10.0, 10.1, 9.9])
    lineage.begin(1)
    for run in (9.5, 9.6, 9.4, 9.55, 9.45, 9.5, 9.5, 9.6, 9.4, 9.5, 9.55, 9.45):
        lineage.observe(1, run, item_variance=SIGMA**2)
    lineage.conclude(1, kept=True)
    assert lineage.posterior.variance(lineage.champion) > 0.5
    assert next_step(lineage, (), 0, MOST, at_end=True) is None
