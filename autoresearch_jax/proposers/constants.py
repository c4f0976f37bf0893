"""The constants proposer: moves one to three constants by a Gaussian process, a quarter of the time by Optuna's TPE.

Moves that are still being measured count as measured: for the Gaussian process with the score that it predicts
("Kriging is well-suited to parallelize optimization", 2010), for TPE as no good. So the next move is another one.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoresearch_jax.proposers.base import (
    CONSTANTS_CATEGORY,
    CONSTANTS_PROPOSER,
    Brief,
    Constants,
    Proposal,
    SpaceExhausted,
    moves_constants_alone,
)
from autoresearch_jax.proposers.constants_model import (
    Array,
    Axis,
    Model,
    TriedSetting,
    find_trials,
    fit_model,
    log_expected_improvement,
    standardise,
    tidy,
)
from autoresearch_jax.proposers.space import Constant, FloatRange, IntRange, Value, format_moves, same

# Proposals that TPE makes: it looks where a model that is wrong would not. On the synthetic problems of
# scripts/bench_search.sh a fifth to a third came out alike, and better than none.
TPE_SHARE = 0.25
STARTUP_TRIALS = 5  # uniform draws before TPE takes over; Optuna's 10 is half of a short night on a CPU
TPE_DRAWS = 50  # tries for a vector not yet seen; TPE likes to repeat itself in a small space
RANDOM_DRAWS = 200  # and then uniform ones
MOVES = (1, 2, 3)  # constants moved at once: few, so that a gain can be laid to something
MOVES_PROBABILITY = (0.4, 0.3, 0.3)
# What follows was chosen on the synthetic problems of scripts/bench_search.sh, with other seeds than it reports. None
# of it is sharp: a third or three times the draws, other shares, or half of the longest step came out much alike.
DRAWS = 300  # moves that are looked at first
NEAR_SHARE = 0.5  # of them that stay near the champion; the others go anywhere
STEP_LOW, STEP_HIGH = 0.02, 0.5  # a near one's deviation in widths of the range, spread over magnitudes
REFINED, REFINEMENTS = 10, 20  # number of the best moves, and small changes tried of each
FINE_LOW, FINE_HIGH = 0.005, 0.1  # by steps of this deviation


class ConstantsProposer:
    """A Gaussian process ranks moves from the champion by expected improvement, and a share of proposals is TPE's.

    Whatever is not moved keeps the champion's value. Nothing is kept between proposals: each is a function of its
    brief, from which the draws are seeded.
    """

    name = CONSTANTS_PROPOSER

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`."""
        if not brief.space:
            raise SpaceExhausted(
                "program.md has no table of constants, or no row of it fits the champion, so no constant can be moved"
            )
        champion = {constant.name: _scalar(brief.champion_constants[constant.name]) for constant in brief.space}
        seen = [*(past.constants for past in brief.history), *(running.constants for running in brief.running)]
        tried = {_key(constants) for constants in (brief.champion_constants, *seen)}
        for drawn in _draws(brief, champion):
            moves = {name: value for name, value in drawn.items() if not same(value, champion[name])}
            if moves and _key({**brief.champion_constants, **moves}) not in tried:
                return Proposal(format_moves(champion, moves), CONSTANTS_CATEGORY, constants=moves)
        raise SpaceExhausted(
            f"{TPE_DRAWS + RANDOM_DRAWS} draws from program.md's table of constants were all tried before: "
            "widen a range or add a constant"
        )

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`: an answer takes milliseconds, and every outcome makes it a better one."""
        return False

    def close(self) -> None:
        """See `Proposer.close`: nothing is ever under way."""


def _draws(brief: Brief, champion: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
    """What may be proposed, the best first; some of it may change nothing, or have been tried."""
    rng = np.random.default_rng((brief.run_seed, brief.experiment))
    trials = find_trials(brief.history, brief.metric)
    out = [running.constants for running in brief.running if moves_constants_alone(running)]
    has_losses = any(trial.loss is not None for trial in trials)
    if rng.random() >= TPE_SHARE and has_losses:
        yield from promising_moves(brief.space, champion, trials, out, rng)
    study = _study([*trials, *(TriedSetting(brief.experiment, constants, None) for constants in out)], brief.space)
    for draw in range(TPE_DRAWS + RANDOM_DRAWS):
        seed, with_tpe = int(rng.integers(2**32)), draw < TPE_DRAWS
        study.sampler = TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed) if with_tpe else RandomSampler(seed=seed)
        yield _asked(study, _pick(brief.space, rng))


def _study(trials: Sequence[TriedSetting], space: Sequence[Constant]) -> optuna.Study:
    with _quiet():
        study = optuna.create_study()
    study.add_trials([_as_optuna_trial(trial, space) for trial in trials])
    return study


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back Optuna's word about each new study, and leaves its logger as it was."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _pick(space: Sequence[Constant], rng: np.random.Generator) -> list[Constant]:
    count = min(len(space), int(rng.choice(MOVES, p=MOVES_PROBABILITY)))
    return [space[i] for i in sorted(rng.choice(len(space), size=count, replace=False))]


def _asked(study: optuna.Study, picked: Sequence[Constant]) -> dict[str, Value]:
    """Values for the picked constants, asked of the study."""
    trial = study.ask({constant.name: _distribution(constant) for constant in picked})
    study.tell(trial, state=TrialState.FAIL)  # TPE passes over it; its score comes in with the history
    return {constant.name: _tidy(trial.params[constant.name], constant) for constant in picked}


def _distribution(constant: Constant) -> BaseDistribution:
    values = constant.values
    if isinstance(values, FloatRange):
        return FloatDistribution(values.low, values.high, log=values.log)
    if isinstance(values, IntRange):
        return IntDistribution(values.low, values.high, log=values.log)
    return CategoricalDistribution(values.values)


def _tidy(value: Value, constant: Constant) -> Value:
    values = constant.values
    return tidy(float(value), values.low, values.high) if isinstance(values, FloatRange) else value


def _as_optuna_trial(trial: TriedSetting, space: Sequence[Constant]) -> FrozenTrial:
    """An experiment for TPE: without a score it is PRUNED, which TPE ranks below every score.

    Values outside today's table (the human edited it) are left out: TPE looks at each constant by itself.
    """
    params: dict[str, Value] = {}
    for constant in space:
        value = trial.constants.get(constant.name)
        if isinstance(value, int | float | str | bool) and constant.values.contains(value):
            params[constant.name] = value
    return create_trial(
        state=TrialState.PRUNED if trial.loss is None else TrialState.COMPLETE,
        value=trial.loss,
        params=params,
        distributions={c.name: _distribution(c) for c in space if c.name in params},
    )


def _scalar(value: object) -> Value:
    if not isinstance(value, int | float | str | bool):
        raise TypeError(f"{value!r} is not a value that an optimizer can move")
    return value


def _key(constants: Constants) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in constants.items()))


def promising_moves(
    space: Sequence[Constant],
    champion: Constants,
    trials: Sequence[TriedSetting],
    out: Sequence[Constants],
    rng: np.random.Generator,
) -> Iterator[dict[str, Value]]:
    """New values of one to three constants, by expected improvement over the champion and over what is out.

    Args:
      space: what may be moved.
      champion: the values of now.
      trials: one or more have a loss.
      out: what is being measured.
      rng: for all draws.
    """
    axes = [Axis(row) for row in space]
    champion_D = np.array([_place(axis, champion[axis.name], 0.0) for axis in axes])
    model = _fit(axes, champion_D, trials)
    out_KxD = _settings(axes, champion_D, out)
    means_L, _ = model.predict(np.vstack([champion_D, out_KxD]))  # not the scores, which a run's luck is part of
    than = float(np.min(means_L))
    model = model.believing(out_KxD)
    settings_MxD = _drawn(axes, champion_D, rng)
    promise_M = log_expected_improvement(*model.predict(settings_MxD), than)
    best_M = np.argsort(-promise_M, kind="stable")[:REFINED]
    refined_MxD = _refined(axes, champion_D, settings_MxD[best_M], rng)
    settings_MxD = np.concatenate([settings_MxD, refined_MxD])
    promise_M = np.concatenate([promise_M, log_expected_improvement(*model.predict(refined_MxD), than)])
    for m in np.argsort(-promise_M, kind="stable"):
        moved = np.flatnonzero(settings_MxD[m] != champion_D)
        yield {axes[d].name: axes[d].decode(settings_MxD[m, d]) for d in moved}


def _fit(axes: Sequence[Axis], champion_D: Array, trials: Sequence[TriedSetting]) -> Model:
    settings_NxD = _settings(axes, champion_D, [trial.constants for trial in trials])
    is_choice_D = np.array([bool(axis.choices) for axis in axes])
    return fit_model(settings_NxD, standardise(trials), is_choice_D)


def _settings(axes: Sequence[Axis], champion_D: Array, tried: Sequence[Constants]) -> Array:
    """A constant that a trial did not have, or with a value that has no place today, is taken to be as it is now."""
    rows = [[_place(axis, one.get(axis.name), champion_D[d]) for d, axis in enumerate(axes)] for one in tried]
    return np.array(rows).reshape(len(tried), len(axes))


def _place(axis: Axis, value: object, otherwise: float) -> float:
    place = None if value is None else axis.encode(value)
    return otherwise if place is None else place


def _drawn(axes: Sequence[Axis], champion_D: Array, rng: np.random.Generator) -> Array:
    """Settings that differ from the champion's in a few constants, near and far: float64[DRAWS, D]."""
    shape = (DRAWS, len(axes))
    counts_M = rng.choice(MOVES, p=MOVES_PROBABILITY, size=DRAWS)
    ranks_MxD = rng.random(shape).argsort(axis=1).argsort(axis=1)
    is_near_M = rng.random(DRAWS) < NEAR_SHARE
    steps_MxD = _steps(rng, shape, STEP_LOW, STEP_HIGH)
    settings_MxD = np.tile(champion_D, (DRAWS, 1))
    for d, axis in enumerate(axes):
        places_M = axis.draw(rng, DRAWS)
        if not axis.choices:
            places_M = np.where(is_near_M, axis.near(settings_MxD[:, d], steps_MxD[:, d]), places_M)
        settings_MxD[:, d] = np.where(ranks_MxD[:, d] < counts_M, places_M, champion_D[d])
    return settings_MxD


def _refined(axes: Sequence[Axis], champion_D: Array, best_MxD: Array, rng: np.random.Generator) -> Array:
    """The settings with small steps along the constants that they move already."""
    settings_MxD = np.repeat(best_MxD, REFINEMENTS, axis=0)
    steps_MxD = _steps(rng, settings_MxD.shape, FINE_LOW, FINE_HIGH)
    for d, axis in enumerate(axes):
        places_M = settings_MxD[:, d]
        settings_MxD[:, d] = np.where(places_M == champion_D[d], places_M, axis.near(places_M, steps_MxD[:, d]))
    return settings_MxD


def _steps(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Array:
    deviation_Mx1 = np.exp(rng.uniform(np.log(low), np.log(high), (shape[0], 1)))
    return deviation_Mx1 * rng.standard_normal(shape)
