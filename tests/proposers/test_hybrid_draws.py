"""Who is asked for the next experiment, on histories of many nights; and what counts as a plateau."""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from autoresearch_jax.proposers.base import (
    DEFAULT_CATEGORIES,
    NO_PROPOSAL,
    Brief,
    PastExperiment,
    Running,
    discards_in_a_row,
    on_plateau,
)
from autoresearch_jax.proposers.hybrid import BLOCK, draw_category, draw_order
from autoresearch_jax.proposers.space import Constant, IntRange
from autoresearch_jax.types import Metric, Status

OPTIMIZER, AGENT, IDEAS = "constants", "gemini", "ideas"
SPACE = (Constant("DEPTH", IntRange(2, 8)),)
SEEDS = range(4)
NIGHT = 120
PLATEAU = 10

Chance = Callable[[str, str], float]  # of being kept, by proposer and category


def outcome(
    number: int,
    proposer: str,
    category: str,
    kept: bool = False,
    status: Status = Status.OK,
    simplification: bool = False,
) -> PastExperiment:
    score = 1.0 if status is Status.OK else None
    return PastExperiment(number, proposer, "", category, {}, status, score, kept, "", simplification=simplification)


BASELINE = outcome(0, "", "", kept=True)
FIRST = Brief(1, 0, Metric("loss"), "", SPACE, "", {}, 1.0, (BASELINE,))


def brief(history, seed: int = 0, **changes) -> Brief:
    values = {"experiment": len(history), "history": tuple(history), **changes}
    return dataclasses.replace(FIRST, run_seed=seed, **values)


def draws_agent(now: Brief) -> bool:
    return draw_order(now, OPTIMIZER, [AGENT])[0] == AGENT


def night(
    chance: Chance, seed: int, plateau: int | None = None, code: Sequence[str] = (AGENT,)
) -> list[PastExperiment]:
    """A night whose proposals are kept by chance."""
    luck = random.Random(seed)
    history = [BASELINE]
    for number in range(1, NIGHT + 1):
        now = brief(history, seed, plateau=plateau)
        proposer = draw_order(now, OPTIMIZER, code)[0]
        category = draw_category(now, AGENT) if proposer == AGENT else "constants"
        history.append(outcome(number, proposer, category, kept=luck.random() < chance(proposer, category)))
    return history[1:]


def share(outcomes: list[PastExperiment], proposer: str) -> float:
    return sum(one.proposer == proposer for one in outcomes) / len(outcomes)


def never(proposer: str, category: str) -> float:
    return 0.0


def only(name: str) -> Chance:
    """A proposer that pays off, while the other never does."""
    return lambda proposer, category: 0.2 * (proposer == name)


def test_of_two_who_pay_off_as_often_the_larger_gains_get_most_until_they_are_old():
    def history(gain_of_constants: float) -> list[PastExperiment]:
        scores = {1: 10.0 - gain_of_constants, 2: 9.9 - gain_of_constants}
        gains = [
            dataclasses.replace(outcome(number, proposer, "", kept=True), score=scores[number])
            for number, proposer in ((1, OPTIMIZER), (2, AGENT))
        ]
        misses = [outcome(number, (OPTIMIZER, AGENT)[number % 2], "") for number in range(3, 7)]
        return [dataclasses.replace(BASELINE, score=10.0), *gains, *misses]

    def share_of_agent(experiment: int, gain_of_constants: float) -> float:
        now = [brief(history(gain_of_constants), seed, experiment=experiment, noise_floor=0.1) for seed in range(200)]
        return sum(map(draws_agent, now)) / len(now)

    assert share_of_agent(9, 2.0) < 0.3 < share_of_agent(9, 0.1)
    assert share_of_agent(60, 2.0) > share_of_agent(9, 2.0)


@pytest.mark.parametrize("chance", [never, lambda _, category: 0.9 * (category == "attention")])
def test_each_category_has_its_turn(chance):
    blocks = len(DEFAULT_CATEGORIES)
    for seed in SEEDS:
        outcomes = night(chance, seed)
        for start in range(0, NIGHT - blocks * BLOCK + 1, BLOCK):
            asked = {one.category for one in outcomes[start : start + blocks * BLOCK]}
            assert set(DEFAULT_CATEGORIES) <= asked


def test_a_category_that_pays_off_gets_more_than_any_other():
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        outcomes = night(lambda _, category: 0.5 * (category == "attention"), seed, PLATEAU)
        counts.update(one.category for one in outcomes if one.proposer == AGENT)
    (first, most), (_, second) = counts.most_common(2)
    assert first == "attention"
    assert most > 2 * second


def probability(history, **changes) -> float:
    """Of the agent, over many seeds, at one number that none of the two is sure of."""
    draws = [draws_agent(brief(history, seed, **changes)) for seed in range(200)]
    return sum(draws) / len(draws)


def several(count: int, proposer: str, category: str, first: int = 1, **changes) -> list[PastExperiment]:
    return [outcome(number, proposer, category, **changes) for number in range(first, first + count)]


def test_what_is_old_counts_less():
    gains = several(12, AGENT, "attention", kept=True)
    fresh = [BASELINE, *gains, *several(2, OPTIMIZER, "constants", first=13)]
    old = [BASELINE, *gains, *several(200, "human", "", first=13), *several(2, OPTIMIZER, "constants", first=213)]
    assert probability(old) < probability(fresh) - 0.1


def test_failed_proposals_and_what_was_kept_for_its_shorter_source_are_no_gains_of_their_proposer():
    start = [BASELINE, *several(20, OPTIMIZER, "constants")]
    base = probability([*start, *several(20, "human", "", first=21)])
    failed = several(20, AGENT, NO_PROPOSAL, first=21, status=Status.REJECTED)
    refactored = several(20, AGENT, "simplification", first=21, status=Status.DUPLICATE, kept=True)
    simplified = several(20, AGENT, "simplification", first=21, kept=True, simplification=True)
    made_up = several(20, AGENT, "alchemy", first=21)
    for useless in (failed, refactored, simplified, made_up):
        assert probability([*start, *useless]) < base - 0.1
    assert probability([*start, *several(20, AGENT, "alchemy", first=21, kept=True)]) > base + 0.1


def test_the_experiment_just_before_makes_no_difference():
    for seed, plateau in ((0, None), (1, 4)):
        outcomes = night(only(AGENT), seed, plateau)
        for number in range(2, 60):
            known = [BASELINE, *outcomes[: number - 2]]
            running = [Running(number - 1, AGENT, "", "attention", {})]
            ahead = brief(known, seed, experiment=number, running=running, plateau=plateau, noise_floor=0.01)
            for last in (outcome(number - 1, AGENT, "attention", kept=True), outcomes[number - 2]):
                after = dataclasses.replace(ahead, history=(*known, last), running=())
                assert draws_agent(after) == draws_agent(ahead)
                assert draw_category(after, AGENT) == draw_category(ahead, AGENT)


def test_a_plateau_asks_the_agent_for_what_was_least_tried_and_not_for_ever():
    categories = ("attention", "schedule", "batch")
    tried = [outcome(1, AGENT, "attention"), outcome(2, AGENT, "batch")]

    def at(discards: int) -> list[tuple[bool, str | None]]:
        """The draws after so many discards, and one more experiment that is not counted yet."""
        history = [BASELINE, *tried, *several(discards - 1, OPTIMIZER, "constants", first=3)]
        briefs = [brief(history, seed, plateau=PLATEAU, categories=categories) for seed in range(100)]
        return [(draws_agent(now), draw_category(now, AGENT)) for now in briefs]

    for discards in (PLATEAU, 2 * PLATEAU - 1, 3 * PLATEAU):
        draws = at(discards)
        assert {category for _, category in draws} == {"schedule"}
        assert 0.7 < sum(agent for agent, _ in draws) / 100 < 0.9, "all but the optimizer's floor"
    for discards in (PLATEAU - 1, 2 * PLATEAU, 3 * PLATEAU - 1):
        assert {category for _, category in at(discards)} == set(categories)


def test_with_several_out_a_plateau_asks_for_what_is_not_being_measured_either():
    categories = ("attention", "schedule", "batch")
    history = [BASELINE, outcome(1, AGENT, "attention"), outcome(2, AGENT, "batch")]
    history += several(PLATEAU - 2, OPTIMIZER, "constants", first=3)
    running = [Running(len(history) + n, AGENT, "", category, {}) for n, category in enumerate(("schedule", "batch"))]

    def asked(**changes) -> set[str | None]:
        changes = {"experiment": len(history) + 2, "plateau": PLATEAU, "categories": categories, **changes}
        return {draw_category(brief(history, seed, **changes), AGENT) for seed in range(60)}

    assert asked(running=running) == set(categories)
    assert asked(running=running[1:]) == asked(running=()) == {"schedule"}, "what is just before makes no difference"


def test_what_held_on_this_class_of_device_elsewhere_is_asked_for_more_often_and_is_outweighed_by_the_run():
    """As if on CPUs initialisation paid off, and architecture did not."""
    categories, elsewhere = (
        ("architecture", "initialization"),
        {"architecture": (0.0, 30.0), "initialization": (20.0, 10.0)},
    )

    def share(history, **known) -> float:
        briefs = [brief(history, seed, categories=categories) for seed in range(300)]
        asked = [draw_category(now, AGENT, **known) for now in briefs]
        return asked.count("initialization") / len(asked)

    assert 0.35 < share([BASELINE]) < 0.65
    assert share([BASELINE], elsewhere=elsewhere) > 0.7
    history = [BASELINE, *several(12, AGENT, "initialization", first=1)]
    history += [outcome(13, AGENT, "architecture", kept=True), outcome(14, OPTIMIZER, "constants")]
    assert share(history, elsewhere=elsewhere) < 0.6


@pytest.mark.parametrize("failures", [PLATEAU // 2, 2 * PLATEAU])
def test_a_plateau_is_as_long_however_many_proposals_failed_before_it(failures):
    failed = several(failures, AGENT, NO_PROPOSAL, status=Status.REJECTED)

    def is_shifted(discards: int, failed_since: int = 0) -> bool:
        """True if the draws are all for one of the categories, which is the one that was never tried."""
        history = [BASELINE, *failed, outcome(failures + 1, AGENT, "batch")]
        history += several(discards - 1, OPTIMIZER, "constants", first=len(history))
        history += several(failed_since, AGENT, NO_PROPOSAL, first=len(history), status=Status.REJECTED)
        history += several(1, OPTIMIZER, "constants", first=len(history))  # not counted yet
        briefs = [brief(history, seed, plateau=PLATEAU, categories=("batch", "schedule")) for seed in range(30)]
        return {draw_category(now, AGENT) for now in briefs} == {"schedule"}

    begins = [discards for discards in range(1, 4 * PLATEAU) if is_shifted(discards)]
    assert begins == [*range(PLATEAU, 2 * PLATEAU), *range(3 * PLATEAU, 4 * PLATEAU)]
    during = [failed_since for failed_since in range(2 * PLATEAU) if is_shifted(PLATEAU, failed_since)]
    assert during == list(range(PLATEAU)), "it cannot be kept up by failing"


def test_without_a_table_all_is_the_agents_and_without_categories_it_is_free():
    history = [BASELINE, *several(30, OPTIMIZER, "constants", kept=True)]
    assert probability(history, space=()) == 1.0
    assert draw_category(brief(history, categories=()), AGENT) is None


# With findings as the third arm.


@pytest.mark.parametrize("code", [(AGENT,), (AGENT, IDEAS)])
@pytest.mark.parametrize("good", [OPTIMIZER, AGENT])
def test_who_pays_off_gets_most_and_of_five_experiments_each_has_one(good, code):
    for seed in SEEDS:
        outcomes = night(only(good), seed, (None, PLATEAU)[seed % 2], code)
        assert 0.35 < share(outcomes, good) <= 1 - len(code) / BLOCK, "the others have their floors"
        for start in range(0, NIGHT, BLOCK):
            assert {one.proposer for one in outcomes[start : start + BLOCK]} == {OPTIMIZER, *code}


def test_everyone_stands_in_and_a_plateau_or_an_empty_table_leaves_the_optimizer_for_last():
    history = [BASELINE, *several(PLATEAU + 1, OPTIMIZER, "constants")]
    for seed in range(40):
        order = draw_order(brief(history, seed, plateau=PLATEAU), OPTIMIZER, [AGENT, IDEAS])
        assert sorted(order) == sorted((OPTIMIZER, AGENT, IDEAS))
        assert order[1] != OPTIMIZER, "its own experiment of the five apart"
        assert draw_order(brief(history, seed, space=()), OPTIMIZER, [AGENT, IDEAS])[2] == OPTIMIZER


# What counts as a plateau.


def test_discards_are_counted_back_to_the_last_gain():
    history = [
        *(BASELINE, outcome(1, AGENT, "batch"), outcome(2, AGENT, "batch", kept=True)),
        *(outcome(3, AGENT, "batch"), outcome(4, AGENT, "batch", status=Status.DUPLICATE)),
        outcome(5, AGENT, "batch", status=Status.REJECTED),
        outcome(6, AGENT, NO_PROPOSAL, status=Status.REJECTED),
        outcome(7, AGENT, "simplification", status=Status.DUPLICATE, kept=True),
        outcome(8, AGENT, "simplification", kept=True, simplification=True),
    ]
    assert [discards_in_a_row(history[:count]) for count in range(10)] == [0, 0, 1, 0, 1, 2, 3, 3, 3, 3]
    assert on_plateau(history, 3)
    assert not on_plateau(history, 4)
    assert not on_plateau(history, None)
    for status in (Status.OK, Status.CRASH, Status.DUPLICATE):
        assert discards_in_a_row([BASELINE, outcome(1, AGENT, NO_PROPOSAL, status=status)]) == 1, "it was proposed"
