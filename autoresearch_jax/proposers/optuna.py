"""Constants moved by Optuna's tree-structured Parzen estimator (TPE), one to three at a time."""

import logging
import math
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
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoresearch_jax.measurement import Metric
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, Brief, Constants, Outcome, Proposal, SpaceExhausted
from autoresearch_jax.proposers.space import (
    Constant,
    FloatRange,
    IntRange,
    Value,
    format_value,
    same,
)

STARTUP_TRIALS = 5  # uniform draws before TPE takes over; Optuna's 10 is half of a short night on a CPU
MOVES = (1, 2, 3)  # constants moved at once: few, so that a gain can be laid to something
MOVES_PROBABILITY = (0.5, 0.3, 0.2)
TPE_DRAWS = 50  # tries for a vector not yet seen; TPE likes to repeat itself in a small space
RANDOM_DRAWS = 200  # and then uniform ones
SIGNIFICANT_DIGITS = 3  # finer steps drown in the noise of a trial, and 0.028 reads better than 0.0279834


class OptunaProposer:
    """TPE over the table of constants; whatever it does not move keeps the champion's value.

    The study is a cache of the brief's history: it grows with it, and is rebuilt when the history is not a
    continuation of the last one or the table changed. The sampler is seeded anew for each proposal.
    """

    name = "optuna"

    def __init__(self) -> None:
        self._space: tuple[Constant, ...] = ()
        self._seen: list[Outcome] = []
        self._tried: set[tuple[tuple[str, str], ...]] = set()
        self._study: optuna.Study | None = None

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`.

        Raises:
          SpaceExhausted: the table is empty, or draw after draw was tried before.
        """
        if not brief.space:
            raise SpaceExhausted("program.md has no table of constants, and the optuna proposer needs one")
        study = self._update_study(brief)
        champion = {constant.name: _scalar(brief.champion_constants[constant.name]) for constant in brief.space}
        rng = np.random.default_rng((brief.run_seed, brief.experiment))
        for draw in range(TPE_DRAWS + RANDOM_DRAWS):
            seed = int(rng.integers(2**32))
            study.sampler = _sampler(seed, with_tpe=draw < TPE_DRAWS)
            moves = _moves(study, _pick(brief.space, rng), champion)
            if moves and _key({**brief.champion_constants, **moves}) not in self._tried:
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

    def _update_study(self, brief: Brief) -> optuna.Study:
        space, history = tuple(brief.space), list(brief.history)
        study = self._study
        if study is None or space != self._space or history[: len(self._seen)] != self._seen:
            study = self._study = _new_study(brief.metric)
            self._space, self._seen, self._tried = space, [], set()
        for outcome in history[len(self._seen) :]:
            study.add_trial(_as_trial(outcome, space))
            self._tried.add(_key(outcome.constants))
            self._seen.append(outcome)
        self._tried.add(_key(brief.champion_constants))
        return study


def _new_study(metric: Metric) -> optuna.Study:
    with _quiet():
        return optuna.create_study(direction=StudyDirection[metric.direction.upper()])


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


def _moves(study: optuna.Study, picked: Sequence[Constant], champion: Mapping[str, Value]) -> dict[str, Value]:
    """New values for the picked constants, asked of the study; what stays as it is is left out."""
    trial = study.ask({constant.name: _distribution(constant) for constant in picked})
    study.tell(trial, state=TrialState.FAIL)  # TPE passes over it; its score comes in with the history
    drawn = {constant.name: _tidy(trial.params[constant.name], constant) for constant in picked}
    return {name: value for name, value in drawn.items() if not same(value, champion[name])}


def _distribution(constant: Constant) -> BaseDistribution:
    values = constant.values
    if isinstance(values, FloatRange):
        return FloatDistribution(values.low, values.high, log=values.log)
    if isinstance(values, IntRange):
        return IntDistribution(values.low, values.high, log=values.log)
    return CategoricalDistribution(values.values)


def _tidy(value: Value, constant: Constant) -> Value:
    """Rounds a real number to a few digits, its own or its range's if that is narrow, without leaving the range."""
    values = constant.values
    if not isinstance(values, FloatRange) or not isinstance(value, float) or value == 0:
        return value
    finest = min(abs(value), values.high - values.low)
    rounded = round(value, SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(finest)))
    return min(max(rounded, values.low), values.high)


def _as_trial(outcome: Outcome, space: Sequence[Constant]) -> FrozenTrial:
    """An experiment for TPE: without a score it is PRUNED, which TPE ranks below every score.

    Values outside today's table (the human edited it) are left out: TPE looks at each constant by itself.
    """
    params = {
        constant.name: _scalar(outcome.constants[constant.name])
        for constant in space
        if constant.name in outcome.constants and constant.values.contains(_scalar(outcome.constants[constant.name]))
    }
    return create_trial(
        state=TrialState.PRUNED if outcome.score is None else TrialState.COMPLETE,
        value=outcome.score,
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
