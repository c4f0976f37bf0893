"""Constants moved one to three at a time: by a model of what was measured, and now and then by Optuna's TPE."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, Brief, Constants, Proposal, SpaceExhausted
from autoresearch_jax.proposers.constants_axes import tidy
from autoresearch_jax.proposers.constants_evidence import OPTIMIZER, Trial, find_trials
from autoresearch_jax.proposers.constants_moves import MOVES, MOVES_PROBABILITY, promising_moves
from autoresearch_jax.proposers.space import Constant, FloatRange, IntRange, Value, format_value, same

# Proposals that TPE makes: it looks where a model that is wrong would not. On the synthetic problems of
# scripts/bench_search.sh a fifth to a third came out alike, and better than none.
TPE_SHARE = 0.25
STARTUP_TRIALS = 5  # uniform draws before TPE takes over; Optuna's 10 is half of a short night on a CPU
TPE_DRAWS = 50  # tries for a vector not yet seen; TPE likes to repeat itself in a small space
RANDOM_DRAWS = 200  # and then uniform ones


class OptunaProposer:
    """A Gaussian process ranks moves from the champion by expected improvement, and a share of proposals is TPE's.

    Whatever is not moved keeps the champion's value. Nothing is kept between proposals: each is a function of its
    brief, from which the draws are seeded.
    """

    name = OPTIMIZER

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`.

        Raises:
          SpaceExhausted: the table is empty, or draw after draw was tried before.
        """
        if not brief.space:
            raise SpaceExhausted("program.md has no table of constants, and the optuna proposer needs one")
        champion = {constant.name: _scalar(brief.champion_constants[constant.name]) for constant in brief.space}
        tried = {_key(brief.champion_constants), *(_key(outcome.constants) for outcome in brief.history)}
        for drawn in _draws(brief, champion):
            moves = {name: value for name, value in drawn.items() if not same(value, champion[name])}
            if moves and _key({**brief.champion_constants, **moves}) not in tried:
                return Proposal(_hypothesis(champion, moves), CONSTANTS_CATEGORY, constants=moves)
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
    has_losses = any(trial.loss is not None for trial in trials)
    if rng.random() >= TPE_SHARE and has_losses:
        yield from promising_moves(brief.space, champion, trials, rng)
    study = _study(trials, brief.space)
    for draw in range(TPE_DRAWS + RANDOM_DRAWS):
        study.sampler = _sampler(int(rng.integers(2**32)), with_tpe=draw < TPE_DRAWS)
        yield _asked(study, _pick(brief.space, rng))


def _study(trials: Sequence[Trial], space: Sequence[Constant]) -> optuna.Study:
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


def _sampler(seed: int, with_tpe: bool) -> BaseSampler:
    return TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed) if with_tpe else RandomSampler(seed=seed)


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


def _as_optuna_trial(trial: Trial, space: Sequence[Constant]) -> FrozenTrial:
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


def _hypothesis(champion: Mapping[str, Value], moves: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} {format_value(champion[name])} -> {format_value(value)}" for name, value in moves.items())
