"""Limits on the time of a trial's phases, and which part of it is free."""

import math

from lm_trials import STEPS

from autoresearch_jax.tasks.lm.config import TimeLimits
from autoresearch_jax.types import Budget, CompileCost, Scrutiny


def test_judging_more_may_take_longer() -> None:
    limits = TimeLimits(judge=100.0)
    assert limits.of("judge", STEPS) == limits.of("judge", STEPS, Scrutiny.SEARCH) == 100.0
    for phase in ("judge", "judge holdout"):
        assert limits.of(phase, STEPS, Scrutiny.AUDIT) == limits.of("judge", STEPS, Scrutiny.KEEP) > 200.0


def test_what_is_free_is_a_share_of_the_budget() -> None:
    limits = TimeLimits(free_share=0.02, least_free=1.0, free_judge=10.0)
    assert [limits.free(Budget(seconds=seconds)) for seconds in (8.0, 300.0, 3000.0)] == [1.0, 6.0, 60.0]
    assert limits.free(STEPS) == 10.0  # which have no time to take a share of


def test_compiling_is_charged_beyond_what_the_champion_took_three_times() -> None:
    charged = TimeLimits(free_compile=60.0).charged_compile
    assert charged(59.0, CompileCost()) == 0.0
    assert charged(61.0, CompileCost()) == 1.0
    assert charged(61.0, CompileCost(champion=5.0)) == 1.0
    assert charged(161.0, CompileCost(champion=50.0)) == 11.0
    # what a cache had is charged as when it was compiled
    assert charged(0.1, CompileCost(charged=11.0, champion=50.0)) == 11.0
    assert charged(900.0, CompileCost(charged=0.0)) == 0.0


def test_a_program_may_be_silent_for_no_longer_than_an_honest_one() -> None:
    limits = TimeLimits(max_stretch=5.0, train_slack=120.0, train_report=600.0, judge_slack=60.0)
    budget = Budget(seconds=300.0)
    assert limits.silence("train", budget, 10, None) == 5.0 * 300.0 / 10 + 120.0
    assert limits.silence("train", budget, 0, None) == 5.0 * 300.0 + 120.0
    assert limits.silence("train", STEPS, 10, None) == 600.0
    assert limits.silence("judge", budget, 10, 20.0) == 80.0
    assert limits.silence("judge", budget, 10, None) == limits.silence("snapshot", budget, 10, None) == math.inf
