"""Edits that were begun upon an earlier champion, while other edits were kept."""

import pytest
from lineages import SIGMA, begun, enter


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
