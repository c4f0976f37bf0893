"""The sequential rule, on scores made for it; how often it errs is simulated by scripts/bench_decisions.py."""

import dataclasses
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_jax.errors import UsageError
from autoresearch_jax.measurement import Metric
from autoresearch_jax.search.decision import Evidence, PeakMemory, Score, Step
from autoresearch_jax.search.noise import Noise, NoiseError
from autoresearch_jax.search.sequential import SequentialDecision, SequentialSettings, memory_toll

BENCH = Path(__file__).parents[2] / "scripts" / "bench_decisions.py"
RULE = SequentialDecision(Metric("val_bpb"))
NOISE = Noise(sigma=0.1, degrees=1000)


def scores(values: list[float], first_seed: int = 0) -> list[Score]:
    return [Score(first_seed + trial, value) for trial, value in enumerate(values)]


def evidence(num_champion_runs: int, candidate: list[float], **changes: object) -> Evidence:
    """A champion of score 1 and runs of a candidate with other seeds; noise 0.1."""
    champion = [1.0 + (0.1 if trial % 2 else -0.1) for trial in range(num_champion_runs)]
    return dataclasses.replace(Evidence(scores(champion), scores(candidate, 100), NOISE), **changes)


@pytest.mark.parametrize(
    ("num_champion_runs", "candidate", "step"),
    [
        (6, [1.0], Step.DISCARD),
        (6, [5.0], Step.DISCARD),
        (6, [0.8], Step.MEASURE_CHAMPION),
        (8, [0.8], Step.MEASURE_CHAMPION),
        (9, [0.8], Step.MEASURE_CANDIDATE),
        (9, [0.8, 0.95], Step.MEASURE_CHAMPION),
        (12, [0.8, 0.95], Step.MEASURE_CANDIDATE),
        (16, [0.0], Step.MEASURE_CANDIDATE),
        (6, [0.75, 0.78, 0.7], Step.MEASURE_CHAMPION),
        (16, [0.75, 0.78, 0.7], Step.KEEP),
        (16, [0.9] * 15, Step.MEASURE_CANDIDATE),
        (16, [0.9] * 16, Step.DISCARD),
    ],
)
def test_the_next_step(num_champion_runs, candidate, step):
    assert RULE.decide(evidence(num_champion_runs, candidate)).step is step


def test_one_run_is_never_enough_and_a_wild_one_does_not_decide():
    assert RULE.decide(evidence(16, [-1000.0])).step is Step.MEASURE_CANDIDATE
    assert RULE.decide(evidence(16, [-1000.0, 1.0])).step is Step.MEASURE_CANDIDATE
    assert RULE.decide(evidence(16, [-1000.0, 1.0, 1.0])).step is Step.DISCARD


def test_the_step_does_not_depend_on_unit_origin_or_direction():
    draw = random.Random(0)
    rising = SequentialDecision(Metric("accuracy", "maximize"))
    for _ in range(200):
        values = [1.0 - 0.15 + draw.gauss(0, 0.1) for _ in range(draw.randint(1, 6))]
        saved = draw.choice([0, 5])
        case = evidence(draw.randint(6, 16), values, nodes_saved=saved)
        moved = dataclasses.replace(
            case,
            champion=[Score(score.seed, 7 - 100 * score.value) for score in case.champion],
            candidate=[Score(score.seed, 7 - 100 * score.value) for score in case.candidate],
            noise=Noise(10.0, 1000),
        )
        assert rising.decide(moved).step is RULE.decide(case).step


def test_what_the_seed_explains_of_a_lucky_run_is_taken_off():
    lucky = dataclasses.replace(evidence(16, []), candidate=[Score(0, 0.86)])  # the champion had 0.9 with this seed
    correlated = dataclasses.replace(lucky, noise=Noise(0.1, 1000, seed_correlation=0.8))
    assert RULE.decide(lucky).step is Step.MEASURE_CANDIDATE
    assert RULE.decide(correlated).step is Step.DISCARD


def test_a_gain_against_the_champions_luck_is_seen_sooner_with_its_seed():
    unlucky = dataclasses.replace(evidence(16, []), candidate=[Score(1, 0.93), Score(3, 0.93)])  # the champion had 1.1
    correlated = dataclasses.replace(unlucky, noise=Noise(0.1, 1000, seed_correlation=0.8))
    assert RULE.decide(unlucky).step is Step.DISCARD
    assert RULE.decide(correlated).step is Step.KEEP


def test_without_a_noise_floor_nothing_is_decided():
    with pytest.raises(NoiseError, match="two runs of one program"):
        RULE.decide(evidence(1, [1.0], noise=None))


def test_without_noise_equal_means_equal_and_any_difference_counts_once():
    for value, nodes_saved, step in (
        (1.0, 0, Step.DISCARD),
        (1.0, 3, Step.KEEP_SIMPLER),
        (math.nextafter(1.0, 2.0), 3, Step.DISCARD),
        (math.nextafter(1.0, 0.0), 0, Step.KEEP),
    ):
        case = Evidence(scores([1.0] * 6), scores([value]), Noise(0.0, 5), nodes_saved)
        assert RULE.decide(case).step is step, (value, nodes_saved)


def test_a_shorter_source_is_kept_if_it_is_no_worse_by_the_smallest_effect():
    for candidate, step in (
        ([1.0] * 4, Step.KEEP_SIMPLER),
        ([1.0], Step.MEASURE_CANDIDATE),
        ([1.1, 1.1], Step.MEASURE_CANDIDATE),
        ([1.2, 1.2], Step.DISCARD),
        ([0.75, 0.78, 0.7], Step.KEEP),
    ):
        assert RULE.decide(evidence(16, candidate, nodes_saved=4)).step is step, candidate
    assert RULE.decide(evidence(16, [1.0] * 4, nodes_saved=0)).step is Step.DISCARD
    assert RULE.decide(evidence(16, [1.0] * 4, nodes_saved=-4)).step is Step.DISCARD
    assert RULE.decide(evidence(6, [1.0] * 4, nodes_saved=4)).step is Step.MEASURE_CHAMPION


def test_a_chain_of_simplifications_is_compared_with_what_it_began_with():
    anchor = scores([0.9, 0.8] * 8, 200)
    case = evidence(16, [1.0] * 4, nodes_saved=4, anchor=anchor)
    ruling = RULE.decide(case)
    assert ruling.step is not Step.KEEP_SIMPLER
    assert "than 0.850000 before the last simplification" in ruling.reason
    assert RULE.decide(evidence(16, [0.75, 0.78, 0.7], nodes_saved=4, anchor=anchor)).step is Step.KEEP


def test_extra_memory_must_be_paid_for_with_a_gain():
    gain = [0.75, 0.78, 0.7]
    assert RULE.decide(evidence(16, gain, memory=PeakMemory(100, 100, 100))).step is Step.KEEP
    assert RULE.decide(evidence(16, gain, memory=PeakMemory(130, 100, 100))).step is Step.MEASURE_CANDIDATE
    dear = RULE.decide(evidence(16, gain, memory=PeakMemory(160, 100, 100)))
    assert dear.step is Step.DISCARD
    assert "6 sigma than if it is 4, the price of its memory" in dear.reason
    assert (
        RULE.decide(evidence(16, [value - 0.4 for value in gain], memory=PeakMemory(160, 100, 100))).step is Step.KEEP
    )
    assert RULE.decide(evidence(16, [1.0] * 3, memory=PeakMemory(122, 100, 100), nodes_saved=9)).step is Step.DISCARD


@pytest.mark.parametrize(
    ("candidate", "champion", "toll"),
    [
        (119, 100, 0.0),
        (120, 100, 0.0),
        (130, 100, 0.5),
        (160, 100, 2.0),
        (130, 115, 0.5),
        (160, 140, 1.0),
        (90, 160, 0.0),
        (None, 100, 0.0),
        (160, None, 0.0),
    ],
)
def test_the_toll_of_memory(candidate, champion, toll):
    assert memory_toll(PeakMemory(candidate, champion, 100), percent=20) == pytest.approx(toll)
    assert memory_toll(PeakMemory(candidate, champion, None), percent=20) == 0


def test_the_reason_has_the_numbers():
    assert RULE.decide(evidence(16, [0.75, 0.78, 0.7])).reason == (
        "val_bpb 0.743333 in 3 runs against the champion's 1.000000 in 16 runs, 0.257 better or 2.6 sigma of 0.1: "
        "429 times likelier if the gain is 2 sigma than if there is none (200 keeps, 0.4 discards)"
    )
    equal = Evidence(scores([1.0] * 2), scores([1.0]), Noise(0.0, 1))
    assert RULE.decide(equal).reason == (
        "val_bpb 1.000000 in 1 run against the champion's 1.000000 in 2 runs, equal: "
        "there is no noise, so it is no gain"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"baseline_runs": 1}, "--baseline_runs=1.*--decision=greedy"),
        ({"alpha": 0.0}, "--alpha"),
        ({"alpha": math.nan}, "--alpha"),
        ({"power": 1.0}, "--power"),
        ({"smallest_effect": 0.0}, "--smallest_effect"),
        ({"smallest_effect": math.inf}, "--smallest_effect"),
        ({"max_runs": 5}, "--max_runs"),
        ({"memory_percent": 0.0}, "--memory_percent"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(change, named):
    with pytest.raises(UsageError, match=named):
        SequentialSettings(**change)


def decided(rule: SequentialDecision, gain: float) -> Step:
    """What becomes of a candidate each of whose runs is better by the same; the champion's runs are all 1."""
    champion, candidate = rule.baseline_runs, 1
    while True:
        ruling = rule.decide(Evidence(scores([1.0] * champion), scores([1.0 - gain] * candidate, 100), NOISE))
        if ruling.step is Step.MEASURE_CHAMPION:
            champion += 1
        elif ruling.step is Step.MEASURE_CANDIDATE:
            candidate += 1
        else:
            return ruling.step


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"baseline_runs": 2},
        {"baseline_runs": 3, "max_runs": 6},
        {"baseline_runs": 4, "max_runs": 5},
        {"smallest_effect": 1.0},
        {"smallest_effect": 0.5, "max_runs": 64},
        {"alpha": 0.05, "max_runs": 6},
    ],
)
def test_whatever_can_be_kept_at_all_is_kept_if_it_is_better_by_more(change):
    rule = SequentialDecision(Metric("val_bpb"), SequentialSettings(**change))
    steps = [decided(rule, gain / 10) for gain in (3, 5, 8, 20, 100, 10_000)]
    assert steps == [Step.KEEP] * len(steps)


def test_settings_with_which_nothing_could_be_kept_are_refused():
    with pytest.raises(UsageError, match=r"--max_runs=4: nothing could ever be kept with .*; set 5 or more"):
        SequentialSettings(baseline_runs=3, max_runs=4)
    with pytest.raises(UsageError, match=r"--smallest_effect=0.5; set 18 or more"):
        SequentialSettings(smallest_effect=0.5)
    SequentialSettings(smallest_effect=0.5, max_runs=18)


def test_extreme_settings_do_not_overflow():
    rule = SequentialDecision(Metric("val_bpb"), SequentialSettings(smallest_effect=1000.0))
    assert rule.decide(evidence(16, [-1e6] * 3)).step is Step.KEEP
    assert rule.decide(evidence(16, [1e6] * 3)).step is Step.DISCARD


def test_simulated_nights_end_in_figures_near_what_the_full_number_of_nights_gives():
    command = [sys.executable, str(BENCH), "--nights=60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    figures = dict(line.split(": ") for line in done.stdout.splitlines()[-10:])
    for suffix in ("", "_t4"):
        assert float(figures[f"false_keeps_per_100_nulls{suffix}"]) <= 0.4
        assert float(figures[f"runs_per_null{suffix}"]) <= 2.1
        assert float(figures[f"power_2_sigma{suffix}"]) >= 0.72
        assert float(figures[f"power_3_sigma{suffix}"]) >= 0.95
        assert abs(float(figures[f"champion_bias_sigma{suffix}"])) <= 0.2
