"""Edits that were begun upon an earlier champion, while other edits were kept."""

import random

import pytest
from lineages import SIGMA, begun, enter

from autoresearch_jax.decide.rule import Action, Complexity, LineageRule
from autoresearch_jax.types import Metric

RULE = LineageRule(Metric("val_bpb"))


def test_an_edit_of_an_earlier_champion_is_measured_against_that_one_and_kept_upon_the_present_one():
    lineage = begun()
    lineage.begin(1)
    lineage.begin(2)
    lineage.observe(1, 9.7)
    lineage.observe(2, 9.8)  # upon the baseline: 2 sigma better
    before = lineage.gain_of_candidate(2)
    lineage.conclude(1, kept=True)
    assert lineage.is_stale(2)
    with pytest.raises(AssertionError, match="2 is to be moved first"):
        lineage.conclude(2, kept=True)
    lineage.move(2)
    after = lineage.gain_of_candidate(2)
    assert not lineage.is_stale(2)
    assert after.mean == pytest.approx(before.mean, abs=0.35), "what it gained stays what it gained"
    assert after.mean > 0, "beside 9.7, the present champion's run, it would be a loss"
    lineage.conclude(2, kept=True)
    assert lineage.champion == {1, 2}
    assert not lineage.runs_of(lineage.champion), "the two together were never measured"
    assert lineage.posterior.gain_of([2]).mean > 0
    lineage.observe(2, 9.5)
    assert list(lineage.runs_of(lineage.champion)) == [-9.5]


def test_runs_upon_two_champions_say_more_than_those_upon_one():
    lineage = begun()
    lineage.begin(1)
    lineage.begin(2)
    for run in (9.72, 9.68):
        lineage.observe(1, run)
    lineage.observe(2, 9.85)
    lineage.conclude(1, kept=True)
    lineage.observe(1, 9.7)
    lineage.move(2)
    one = lineage.gain_of_candidate(2)
    lineage.observe(2, 9.55)  # again 1.5 sigma better than what it was made from
    two = lineage.gain_of_candidate(2)
    assert two.mean > one.mean + 0.3, "the same luck twice is less likely than once"
    assert two.above(0) > one.above(0)


def test_a_discarded_edit_says_of_each_of_its_parents_what_its_runs_upon_it_say():
    lineage = begun()
    lineage.begin(1)
    lineage.begin(2)
    lineage.observe(1, 9.7)
    lineage.observe(2, 10.3)
    lineage.conclude(1, kept=True)
    lineage.move(2)
    lineage.observe(2, 9.9)
    lineage.conclude(2, kept=False)
    score = lineage.posterior.score(lineage.champion)
    assert score.mean == pytest.approx(-9.7, abs=2 * SIGMA)
    assert lineage.posterior.score([]).mean == pytest.approx(-10.0, abs=SIGMA)


def test_a_group_that_is_out_stays_out_when_another_edit_is_kept_meanwhile():
    lineage = begun()
    enter(lineage, 1, [9.99, 10.02], kept=True)
    lineage.begin(2, without=[1])
    lineage.begin(3)
    lineage.observe(2, 10.0)
    lineage.observe(3, 9.6)
    lineage.conclude(3, kept=True)
    lineage.move(2)
    assert lineage.programs[2].contents == {3}
    lineage.conclude(2, kept=True)
    assert lineage.champion == {3}
    assert -10.0 in lineage.runs_of(frozenset()), "its run was without either"


def test_many_moved_edits_give_no_other_champion_than_their_gains_say():
    draw, truth = random.Random(0), {0: 0.0}
    lineage = begun()
    for first in range(1, 60, 3):  # three in flight, all upon one champion
        for number in range(first, first + 3):
            truth[number] = draw.choice((2.0, 0.0, -2.0))
            lineage.begin(number)
            own = sum(truth[edit] for edit in lineage.programs[number].contents)
            lineage.observe(number, 10 - SIGMA * (own + draw.gauss(0, 1)))
        for number in range(first, first + 3):
            kept = RULE.decide(lineage, number, Complexity()).action is Action.KEEP
            if kept and lineage.is_stale(number):
                lineage.move(number)
            lineage.conclude(number, kept=kept)
            if kept:
                own = sum(truth[edit] for edit in lineage.champion)
                lineage.observe(number, 10 - SIGMA * (own + draw.gauss(0, 1)))
    true = sum(truth[edit] for edit in lineage.champion)
    score = lineage.posterior.score(lineage.champion)
    assert abs((score.mean + 10) / SIGMA - true) < 3 * score.error / SIGMA
    assert true > 15
