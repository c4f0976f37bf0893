"""What becomes of a candidate; how much a night gains by it is simulated by scripts/bench_decisions.py."""

import dataclasses
import math
import random

import pytest
from lineages import FREE, METRIC, SIGMA, begun, decided, enter

from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import (
    CONFIDENCE,
    Action,
    Complexity,
    GreedyRule,
    LineageRule,
    LineageSettings,
    plus_minus,
    shown,
    worth_of_runs,
)
from autoresearch_jax.errors import UsageError
from autoresearch_jax.types import Metric

RULE = LineageRule(METRIC)
RULES = {name: LineageRule(METRIC, LineageSettings(**bounds)) for name, bounds in CONFIDENCE.items()}
SHORTER = Complexity(nodes_added=-4)
MEASURES = (Action.MEASURE_CANDIDATE, Action.MEASURE_CHAMPION)


def known_champion() -> Lineage:
    """A champion, the baseline, of score 10 that has been measured often."""
    return begun([10.0, 10.1, 9.9, 10.05, 9.95] * 4)


def candidate(runs_in_sigma: list[float], complexity: Complexity = FREE, rule: LineageRule = RULE) -> Action:
    """The action on a candidate whose runs are better by the given numbers of sigma."""
    lineage = known_champion()
    enter(lineage, 1, [10 - SIGMA * run for run in runs_in_sigma])
    return decided(rule, lineage, 1, complexity).action


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_clear_is_decided_at_once(rule):
    assert candidate([-5.0], rule=rule) is Action.DISCARD
    assert candidate([-1e4], rule=rule) is Action.DISCARD
    assert candidate([5.0, 5.0], rule=rule) is Action.KEEP
    assert candidate([1e4, 1e4], rule=rule) is Action.KEEP


def test_a_stricter_rule_asks_for_more():
    for doubtful in ([1.2, 0.8], [1.5], [0.8, 0.8, 0.8], [2.0]):
        kept = {name: candidate(doubtful, rule=rule).keeps for name, rule in RULES.items()}
        assert kept["fast"] >= kept["balanced"] >= kept["strict"]
    assert candidate([1.2, 0.8], rule=RULES["fast"]) is Action.KEEP
    assert not candidate([1.2, 0.8], rule=RULES["strict"]).keeps


def test_one_wild_run_does_not_decide():
    gain = 8.0
    assert candidate([gain, -0.5]) in MEASURES
    assert not candidate([gain, -0.5, -0.5]).keeps
    assert candidate([-gain, 2.5, 2.5, 2.5]) is Action.KEEP


def test_no_candidate_has_more_runs_than_the_bound():
    for name, rule in RULES.items():
        most = CONFIDENCE[name]["max_runs"]
        for mean in (-0.5, 0.0, 0.3, 0.6):
            lineage, runs = known_champion(), 0
            lineage.begin(1)
            action = Action.MEASURE_CANDIDATE
            while action in MEASURES:
                runs += action is Action.MEASURE_CANDIDATE
                number = 1 if action is Action.MEASURE_CANDIDATE else 0
                lineage.observe(number, 10 - SIGMA * (mean if number else 0.0))
                action = decided(rule, lineage, 1).action
                assert lineage.num_runs < 100
            assert 1 <= runs <= most


def test_a_champion_that_is_less_known_than_the_candidate_is_measured():
    lineage = begun([10.0, 10.1])
    enter(lineage, 1, [9.95] * 5)
    rule = LineageRule(METRIC, LineageSettings(keep_probability=0.95, run_worth=0.1, max_runs=16))
    assert decided(rule, lineage, 1).action is Action.MEASURE_CHAMPION
    lineage = known_champion()
    enter(lineage, 1, [9.9])
    assert decided(rule, lineage, 1).action is Action.MEASURE_CANDIDATE


def test_the_decision_does_not_depend_on_unit_or_direction():
    draw = random.Random(0)
    rising = LineageRule(Metric("accuracy", "maximize"))
    for _ in range(8):
        baseline = [10 + draw.gauss(0, SIGMA) for _ in range(draw.randint(2, 6))]
        runs = [10 - 1.5 * SIGMA + draw.gauss(0, SIGMA) for _ in range(draw.randint(1, 4))]
        complexity = Complexity(nodes_added=draw.choice([-5, 0, 50]))
        falls = begun(baseline)
        enter(falls, 1, runs)
        rises = begun([-100 * run for run in baseline], sign=1)
        enter(rises, 1, [-100 * run for run in runs])
        one, other = decided(RULE, falls, 1, complexity), decided(rising, rises, 1, complexity)
        assert other.action is one.action
        assert other.probability == pytest.approx(one.probability)
        assert other.gain.mean == pytest.approx(100 * one.gain.mean)
        assert other.gain.error == pytest.approx(100 * one.gain.error)
        assert other.sigma == pytest.approx(100 * one.sigma)


def test_a_decision_carries_its_numbers():
    lineage = known_champion()
    enter(lineage, 1, [9.6, 9.7])
    decision = decided(RULE, lineage, 1)
    assert decision.gain.mean == pytest.approx(0.32, abs=0.1)
    assert 0.02 < decision.gain.error < SIGMA
    assert decision.probability > 0.95
    assert decision.sigma == pytest.approx(SIGMA, rel=0.4)
    for part in ("val_bpb 9.650000", "2 runs", plus_minus(decision.gain), "better"):
        assert part in decision.reason
    assert "\n" not in decision.reason


def test_added_nodes_raise_the_bar():
    runs = [1.5, 1.0]
    assert candidate(runs) is Action.KEEP
    probabilities = []
    for nodes in (0, 100, 1000, 10_000):
        lineage = known_champion()
        enter(lineage, 1, [10 - SIGMA * run for run in runs])
        probabilities.append(decided(RULE, lineage, 1, Complexity(nodes_added=nodes)).probability)
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[0] > probabilities[-1]
    assert candidate(runs, Complexity(nodes_added=10_000)) is Action.DISCARD
    free = LineageRule(METRIC, LineageSettings(nodes_price=0.0))
    assert candidate(runs, Complexity(nodes_added=10_000), free) is Action.KEEP


def test_extra_memory_must_be_paid_for_with_a_gain():
    def memory(peak: float, champion: float = 100.0) -> Complexity:
        return Complexity(memory=peak, champion_memory=champion, baseline_memory=100.0)

    gain = [2.5, 2.5]
    assert candidate(gain, memory(100)) is Action.KEEP
    assert candidate(gain, memory(120)) is Action.KEEP
    assert candidate(gain, memory(200)) is Action.DISCARD
    lineage = known_champion()
    enter(lineage, 1, [9.75])
    decision = decided(RULE, lineage, 1, memory(200))
    assert decision.sigma is not None
    assert decision.price == pytest.approx(4 * decision.sigma), "100 % more, of which 20 % is free and each 20 % is one"
    assert candidate([8.0, 8.0], memory(200)) is Action.KEEP
    assert candidate(gain, memory(200, champion=200)) is Action.KEEP, "the champion paid for it"
    larger = dataclasses.replace(memory(200), nodes_added=-9)
    assert candidate([0.0] * 8, larger) is Action.DISCARD, "shorter and larger is no simplification"


@pytest.mark.parametrize(
    ("candidate", "champion", "toll"),
    [
        (120, 100, 0.0),
        (130, 100, 0.5),
        (160, 140, 1.0),
        (90, 160, 0.0),
        (None, 100, 0.0),
        (160, None, 0.0),
    ],
)
def test_the_toll_of_memory(candidate, champion, toll):
    complexity = Complexity(memory=candidate, champion_memory=champion, baseline_memory=100)
    assert complexity.memory_toll(20) == pytest.approx(toll)
    assert dataclasses.replace(complexity, baseline_memory=None).memory_toll(20) == 0


def test_a_shorter_program_may_lose_a_little():
    assert candidate([0.0] * 4, SHORTER) is Action.KEEP_SIMPLER
    assert candidate([0.0] * 8) is Action.DISCARD
    assert candidate([0.0] * 8, Complexity(nodes_added=4)) is Action.DISCARD
    assert candidate([-2.0, -2.0], SHORTER) is Action.DISCARD
    assert candidate([3.0, 3.0], SHORTER) is Action.KEEP
    assert Action.KEEP_SIMPLER.keeps


def chain(seed: int, loss: float, *, is_bounded: bool) -> float:
    """What a champion has lost in sigma after 20 shorter candidates, each worse by `loss`."""
    draw = random.Random(seed)
    lineage, last, lost, since = known_champion(), 0, 0.0, []
    for number in range(1, 21):
        anchor = lineage.posterior.gain_of(since) if is_bounded and since else Estimate(0.0, 0.0)
        complexity = Complexity(nodes_added=-4, anchor_gain=anchor)
        lineage.begin(number)
        action = Action.MEASURE_CANDIDATE
        while action in MEASURES:
            measured, worse = (number, lost + loss) if action is Action.MEASURE_CANDIDATE else (last, lost)
            lineage.observe(measured, 10 + SIGMA * (worse + draw.gauss(0, 1)))
            action = decided(RULE, lineage, number, complexity).action
        lineage.conclude(number, kept=action.keeps)
        if action.keeps:
            last, lost = number, lost + loss
            since = [*since, number] if action is Action.KEEP_SIMPLER else []
            lineage.observe(number, 10 + SIGMA * (lost + draw.gauss(0, 1)))
    return lost


def test_a_chain_of_simplifications_loses_little_more_than_the_allowance():
    bounded, free = (chain(1, 0.4, is_bounded=is_bounded) for is_bounded in (True, False))
    assert bounded < RULE.with_settings.loss_allowance + 0.9, "one more step, and a lucky gain"
    assert bounded < 0.7 * free


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_without_noise_any_difference_counts_and_equal_and_shorter_is_simpler(direction):
    better = -1 if direction == "minimize" else 1
    rule = LineageRule(Metric("m", direction))
    dear = Complexity(nodes_added=-3, memory=200, champion_memory=100, baseline_memory=100)
    for gain, complexity, action in (
        (0.0, FREE, Action.DISCARD),
        (0.0, Complexity(nodes_added=-3), Action.KEEP_SIMPLER),
        (0.0, dear, Action.DISCARD),
        (-1e-6, Complexity(nodes_added=-3), Action.DISCARD),
        (1e-6, FREE, Action.KEEP),
        (0.5, Complexity(nodes_added=-3), Action.KEEP),
    ):
        lineage = begun([1.1] * 3, sign=better)
        enter(lineage, 1, [1.1 + better * gain])
        decision = decided(rule, lineage, 1, complexity)
        assert decision.action is action, gain
        assert decision.gain.mean == pytest.approx(gain)
        assert decision.sigma == 0


def of_items(difference: float, *, before: int = 0) -> Action:
    """The action where seeds change nothing, on a difference in standard errors of the items."""
    lineage = begun([0.9] * 3, sign=1)
    for number in range(1, before + 1):
        lineage.begin(number)
        lineage.observe(number, 0.89, item_variance=0.01**2)
        lineage.conclude(number, kept=False)
    lineage.begin(before + 1)
    lineage.observe(before + 1, 0.9 + 0.01 * difference, item_variance=0.01**2)
    return decided(LineageRule(Metric("accuracy", "maximize")), lineage, before + 1).action


@pytest.mark.parametrize("before", [0, 3])
def test_a_difference_within_the_noise_of_the_test_items_is_no_gain(before):
    assert of_items(0.5, before=before) is Action.DISCARD, "the first candidate, too"
    assert of_items(-0.5, before=before) is Action.DISCARD
    assert of_items(5.0, before=before) is Action.KEEP
    assert of_items(-5.0, before=before) is Action.DISCARD


@pytest.mark.parametrize(
    ("direction", "value", "action", "gain"),
    [
        ("minimize", 0.5, Action.KEEP, "+0.250000"),
        ("minimize", 1.0, Action.DISCARD, "-0.250000"),
        ("minimize", 0.75, Action.DISCARD, "+0.000000"),
        ("maximize", 1.0, Action.KEEP, "+0.250000"),
        ("maximize", 0.75, Action.DISCARD, "+0.000000"),
    ],
)
def test_greedy_keeps_what_is_strictly_better_in_one_run(direction, value, action, gain):
    lineage = begun([0.75], sign=-1 if direction == "minimize" else 1)
    enter(lineage, 1, [value])
    rule = GreedyRule(Metric("m", direction))
    decision = rule.decide(lineage, 1, FREE)
    assert decision.action is action
    assert gain in decision.reason
    assert rule.settings == {"decision": "greedy"}
    lineage.conclude(1, kept=True)
    enter(lineage, 2, [value])
    assert rule.decide(lineage, 2, FREE).action is Action.DISCARD, "equal to the new champion"


def test_a_further_run_is_worth_more_the_more_it_may_still_gain():
    assert worth_of_runs(1.0, 1.0, 1.0) > worth_of_runs(0.0, 1.0, 1.0) > worth_of_runs(-1.0, 1.0, 1.0) > 0
    assert worth_of_runs(0.0, 1.0, 1.0) > worth_of_runs(0.0, 0.2, 1.0) > worth_of_runs(0.0, 0.0, 1.0) == 0
    assert worth_of_runs(0.0, 1.0, 0.0) == 0
    assert math.isfinite(worth_of_runs(-1e6, 1e-3, 1.0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"baseline_runs": 1}, "--baseline_runs=1.*--decision=greedy"),
        ({"keep_probability": 1.0}, "--keep_probability"),
        ({"keep_probability": math.nan}, "--keep_probability"),
        ({"run_worth": math.inf}, "--run_worth"),
        ({"max_runs": 0}, "--max_runs"),
        ({"memory_percent": 0.0}, "--memory_percent"),
        ({"nodes_price": -1.0}, "--nodes_price"),
        ({"loss_allowance": math.nan}, "--loss_allowance"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(change, named):
    with pytest.raises(UsageError, match=named):
        LineageSettings(**change)


def test_a_run_keeps_to_all_that_decisions_depend_on():
    settings = RULE.settings
    assert settings["decision"] == "lineage"
    assert all(isinstance(value, int | float | str) for value in settings.values())
    for name, value in dataclasses.asdict(LineageSettings()).items():
        changed = LineageSettings(**{name: value + 1 if isinstance(value, int) else 1.01 * value})
        assert LineageRule(METRIC, changed).settings != settings, name
        assert LineageSettings.of(LineageRule(METRIC, changed).settings) == changed


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (1.5706, 0.0041, "1.5706 +- 0.0041"),
        (1.57064, 0.00999, "1.5706 +- 0.0100"),
        (1234.0, 70.0, "1234 +- 70"),
        (0.5, 0.0, "0.500000"),
        (0.5, math.inf, "0.500000"),
    ],
)
def test_an_estimate_is_shown_with_two_digits_of_its_error(mean, error, text):
    assert plus_minus(Estimate(mean, error)) == text


def test_no_probability_is_shown_as_certain():
    assert shown(1.0).startswith(">")
    assert shown(0.0).startswith("<")
    assert shown(0.74) == "0.74"
