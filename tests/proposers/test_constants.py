"""What the optimizer does with a history, on tables as program.md has them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoresearch_jax.assets.python_constants import read_constants, set_constants
from autoresearch_jax.proposers.base import Brief, Constants, PastExperiment, Running
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.constants_model import BEST, NEWEST, Axis
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange, Value
from autoresearch_jax.types import Metric, Status

LOSS = Metric("loss")
SPACE = (
    Constant("LR", FloatRange(1e-4, 1.0, log=True)),
    Constant("DECAY", FloatRange(0.0, 0.4)),
    Constant("BATCH", IntRange(1, 64, log=True)),
    Constant("DEPTH", IntRange(1, 8)),
    Constant("PATTERN", Choices(("SL", "SSSL", "L"))),
    Constant("GATED", Choices((False, True))),
)
START: Mapping[str, Value] = {"LR": 0.5, "DECAY": 0.3, "BATCH": 32, "DEPTH": 2, "PATTERN": "L", "GATED": False}
SOURCE = "".join(f"{name} = {value!r}  # why\n" for name, value in START.items())


def outcome(number: int, constants: Mapping[str, Value], score: float | None, **changes) -> PastExperiment:
    status = Status.OK if score is not None else Status.OOM
    return replace(PastExperiment(number, "constants", "", "constants", constants, status, score, False, ""), **changes)


def brief(*history: PastExperiment, seed: int = 0, space=SPACE, metric=LOSS) -> Brief:
    champion = [o for o in history if o.kept][-1]
    return Brief(len(history), seed, metric, "", space, SOURCE, champion.constants, champion.score, history)


def night(score: Callable[[Mapping[str, Value]], float | None], count: int, **words) -> Brief:
    """What is known after an experiment with each of so many proposals."""
    metric = words.get("metric", LOSS)
    history = [outcome(0, START, score(START), kept=True)]
    proposer = ConstantsProposer()
    for number in range(1, count + 1):
        known = brief(*history, **words)
        moves = proposer.propose(known).constants
        source = set_constants(SOURCE, {**known.champion_constants, **moves})
        constants = read_constants(source)
        assert constants == {**known.champion_constants, **moves}, "a source can spell each value"
        assert 1 <= len(moves) <= 3
        value = score(constants)
        better = value is not None and metric.is_better(value, known.champion_score)
        history.append(outcome(number, constants, value, kept=better))
    return brief(*history, **words)


def bowl(constants) -> float | None:
    """0 at the optimum, which is within a few moves; rates that fail are half of the range."""
    if constants["LR"] * constants["DEPTH"] > 1.5:
        return None
    return (
        abs(constants["LR"] - 0.02) ** 0.5
        + abs(constants["DECAY"] - 0.1)
        + 0.02 * abs(constants["BATCH"] - 8)
        + 0.1 * abs(constants["DEPTH"] - 5)
        + (constants["PATTERN"] != "SSSL")
        + 0.3 * (constants["GATED"] is False)
    )


@pytest.fixture(scope="module")
def searched() -> Brief:
    return night(bowl, 24)


def test_it_comes_near_the_optimum_of_six_constants_and_leaves_what_fails(searched: Brief):
    start = bowl(START)
    assert start is not None
    assert searched.champion_score < 0.2 * start
    late = [o.score for o in searched.history[12:]]
    assert late.count(None) <= len(late) // 4


def test_higher_may_be_better(searched: Brief):
    def mirrored(constants):
        return None if bowl(constants) is None else -bowl(constants)

    upward = night(mirrored, 6, metric=Metric("accuracy", "maximize"))
    assert [o.constants for o in upward.history] == [o.constants for o in searched.history[:7]], "the same search"


def test_nothing_has_worked_but_the_champion():
    history = [outcome(0, START, 2.0, kept=True)]
    for number in range(1, 8):
        moves = ConstantsProposer().propose(brief(*history)).constants
        history.append(outcome(number, {**START, **moves}, None))
    assert len({repr(sorted(o.constants.items())) for o in history}) == 8


def test_a_history_of_another_optimizers_sources():
    """Constants that were not there, or were something else, and changes of structure among the proposals."""
    history = (
        outcome(0, {"LR": "fast", "PATTERN": "SL"}, 3.0, kept=True, category=""),
        outcome(1, {"LR": -0.5, "DECAY": (0.1, 0.2), "DEPTH": 300}, 2.9),
        outcome(2, START, 2.0, kept=True, category="attention"),
        outcome(3, {**START, "LR": 0.1}, None, category="optimizer"),
        outcome(4, {**START, "GATED": 1}, 2.1),
    )
    for seed in range(4):
        assert ConstantsProposer().propose(brief(*history, seed=seed)).constants


def test_what_is_left_out_of_a_long_history_is_still_not_tried_again():
    space = (Constant("DEPTH", IntRange(1, NEWEST + BEST + 40)),)
    values = [value for value in range(1, NEWEST + BEST + 41) if value != 7]
    history = [outcome(n, {**START, "DEPTH": value}, float(n), kept=n == 0) for n, value in enumerate(values)]
    assert ConstantsProposer().propose(brief(*history, space=space)).constants == {"DEPTH": 7}


# Several at a time.


def proposed_in_a_row(known: Brief, count: int, *, told: bool = True) -> list[Running]:
    """Proposals of which none is measured before the next one is made."""
    running: list[Running] = []
    for number in range(known.experiment, known.experiment + count):
        now = replace(known, experiment=number, running=tuple(running) if told else ())
        proposal = ConstantsProposer().propose(now)
        constants = {**known.champion_constants, **proposal.constants}
        running.append(Running(number, "constants", proposal.hypothesis, "constants", constants))
    return running


def nearest(settings: Sequence[Constants]) -> float:
    """The smallest distance of two settings, in widths of the ranges; another choice is 1 away."""
    axes = [Axis(row) for row in SPACE]

    def distance(one: Constants, other: Constants) -> float:
        steps = [abs(axis.encode(one[axis.name]) - axis.encode(other[axis.name])) for axis in axes]
        return float(np.linalg.norm(np.minimum(steps, 1)))

    return min(distance(one, other) for place, one in enumerate(settings) for other in settings[:place])


def test_eight_in_a_row_are_unlike_each_other(searched: Brief):
    """With one trial, with many, where TPE proposes, too; and much more so than without word of each other."""
    spread = {True: 0.0, False: 0.0}
    for seed, count in ((0, 1), (1, 12)):
        known = brief(*searched.history[:count], seed=seed)
        running = proposed_in_a_row(known, 8)
        assert len({repr(sorted(one.constants.items())) for one in running}) == 8
        spread[True] += nearest([one.constants for one in running])
        spread[False] += nearest([one.constants for one in proposed_in_a_row(known, 8, told=False)])
        again = ConstantsProposer().propose(replace(known, running=running[:1]))  # the same draws
        assert nearest([running[0].constants, {**known.champion_constants, **again.constants}]) > 0.02
    assert running == proposed_in_a_row(known, 8), "a function of the brief"
    assert spread[True] > 2 * spread[False]


def test_the_last_values_that_are_left_are_proposed_once():
    space = (Constant("DEPTH", IntRange(1, 8)),)
    start = outcome(0, {**START, "DEPTH": 2}, 1.0, kept=True)
    code = Running(1, "gemini", "", "attention", {**START, "DEPTH": 5})
    known = replace(brief(start, space=space), experiment=2)
    seen = [one.constants["DEPTH"] for one in proposed_in_a_row(known, 7)]
    assert sorted(seen) == [1, 3, 4, 5, 6, 7, 8]
    running = [code, *(Running(n, "constants", "", "constants", {**START, "DEPTH": n}) for n in (1, 3, 4, 6, 7))]
    assert ConstantsProposer().propose(replace(known, running=running)).constants == {"DEPTH": 8}
