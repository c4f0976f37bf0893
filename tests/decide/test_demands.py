"""What proposers are told about being kept, against what the rules then do."""

import re

import pytest
from lineages import METRIC, SIGMA, begun, decided, enter

from autoresearch_jax.decide.demands import CLEAR_STEPS, clear_gain, demands
from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
from autoresearch_jax.types import Metric

RULE = LineageRule(METRIC)


@pytest.mark.parametrize("runs", [[10.0, 10.1, 9.9], [10.0, 10.1, 9.9, 10.05, 9.95] * 4])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_clear_gain_is_kept_after_one_run_and_a_step_less_is_not(runs, sign):
    lineage = begun(runs, sign=sign)
    rule = LineageRule(Metric("score", "minimize" if sign < 0 else "maximize"))
    gain, programs = clear_gain(rule, lineage), dict(lineage.programs)
    sigma, champion = lineage.posterior.sigma, lineage.posterior.score(lineage.champion).mean
    assert lineage.programs == programs, "nothing is entered"
    for number, (steps, action) in enumerate([(0, Action.KEEP), (1, Action.MEASURE_CANDIDATE)], 1):
        copy = lineage.copy()
        enter(copy, number, [sign * (champion + gain - steps * sigma / CLEAR_STEPS)])
        assert (decided(rule, copy, number).action is Action.KEEP) == (action is Action.KEEP)
    assert 0.5 * SIGMA < gain < 4 * SIGMA


def test_the_words_have_the_settings_and_no_digit_more_than_the_noise():
    kept, price, shorter = demands(RULE, begun([10.0, 10.1, 9.9]))
    assert "probability 0.62" in kept
    assert "8 runs" in kept
    assert "20 % of peak memory beyond 120 % of the baseline's, or of a tenth" in price
    assert "100 more syntax nodes" in price
    sizes = [re.search(r"gain of about ([\d.]+)", kept), re.search(r": ([\d.]+) for", price)]
    sizes += [re.search(r", ([\d.]+) for each", price), re.search(r"less than ([\d.]+)$", shorter)]
    for found in sizes:
        assert len(found[1].replace(".", "").strip("0")) == 1, found[1]


def test_other_rules_say_what_they_do():
    assert "in one run" in demands(None, None)[0]
    assert demands(RULE, None) == []
    assert "no noise" in demands(RULE, begun([10.0, 10.0, 10.0]))[0]
    free = LineageRule(METRIC, LineageSettings(nodes_price=0, loss_allowance=0))
    assert len(demands(free, begun([10.0, 10.1, 9.9]))) == 2
    assert "syntax nodes" not in demands(free, begun([10.0, 10.1, 9.9]))[1]
