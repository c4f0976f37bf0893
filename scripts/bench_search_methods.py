"""The searches that bench_search.py compares; each is told the same start, and its score, as its first trial."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import optuna
from bench_conditions import draw_value
from bench_search_problems import Problem
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from autoresearch_jax.proposers.base import Brief, PastExperiment, Proposer, SpaceExhausted
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.hybrid import HybridProposer
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange, Value
from autoresearch_jax.types import Metric, Status

METRIC = Metric("score")
Search = Callable[[Problem, int, int], list[float | None]]
"""Scores of a problem's first trials, with a seed and a number of trials."""


def search_ours(problem: Problem, seed: int, trials: int) -> list[float | None]:
    """The proposer as the loop calls it: the champion is the best so far."""
    proposer, brief = _proposer(), _first_brief(problem, seed)
    while len(brief.history) < trials:
        try:
            proposal = proposer.propose(brief)
        except SpaceExhausted:
            break
        brief = _following(problem, brief, {**brief.champion_constants, **proposal.constants})
    scores = [outcome.score for outcome in brief.history]
    return scores + [scores[0]] * (trials - len(scores))


def ours_after(problem: Problem, outcomes: int, seed: int) -> tuple[Proposer, Brief]:
    """The proposer, and a brief that has so many experiments behind it, all drawn at random."""
    rng = random.Random(seed)
    brief = _first_brief(problem, seed)
    while len(brief.history) < outcomes:
        brief = _following(problem, brief, {row.name: draw_value(row.values, rng) for row in problem.space})
    return _proposer(), brief


class _Unheard:
    """An observer of a service that is not there."""

    def notice(self, text: str) -> None:
        pass

    def service_down(self, what: str, since: float, again_at: float) -> None:
        pass

    def service_back(self) -> None:
        pass


def _proposer() -> Proposer:
    return HybridProposer(ConstantsProposer(), None, _Unheard())


def _first_brief(problem: Problem, seed: int) -> Brief:
    first = _outcome(problem, 0, problem.start, None)
    assert first.score is not None, "a search starts at a setting that works"
    return Brief(1, seed, METRIC, "", problem.space, _source(problem.start), problem.start, first.score, (first,))


def _following(problem: Problem, brief: Brief, setting: Mapping[str, Value]) -> Brief:
    """The brief after a setting was measured."""
    outcome = _outcome(problem, brief.experiment, setting, brief.champion_score)
    after = replace(brief, experiment=brief.experiment + 1, history=(*brief.history, outcome))
    if not outcome.kept:
        return after
    return replace(after, champion_source=_source(setting), champion_constants=setting, champion_score=outcome.score)


def _outcome(problem: Problem, number: int, setting: Mapping[str, Value], best: float | None) -> PastExperiment:
    score = problem.score(setting)
    return PastExperiment(
        experiment=number,
        proposer="constants",
        hypothesis="",
        category="constants",
        constants=setting,
        status=Status.NONFINITE if score is None else Status.OK,
        score=score,
        kept=score is not None and (best is None or score < best),
        reason="",
    )


def _source(setting: Mapping[str, Value]) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in setting.items())


def _search_with(make_sampler: Callable[[Problem, int], BaseSampler]) -> Search:
    def search(problem: Problem, seed: int, trials: int) -> list[float | None]:
        study = optuna.create_study(sampler=make_sampler(problem, seed))
        study.enqueue_trial(dict(problem.start))
        scores: list[float | None] = []
        for _ in range(trials):
            trial = study.ask()
            score = problem.score({row.name: _suggest(trial, row) for row in problem.space})
            if score is None:
                study.tell(trial, state=TrialState.PRUNED)  # ranked below every score; of a FAIL TPE learns nothing
            else:
                study.tell(trial, score)
            scores.append(score)
        return scores

    return search


def _suggest(trial: optuna.Trial, row: Constant) -> Value:
    values = row.values
    if isinstance(values, FloatRange):
        return trial.suggest_float(row.name, values.low, values.high, log=values.log)
    if isinstance(values, IntRange):
        return trial.suggest_int(row.name, values.low, values.high, log=values.log)
    return trial.suggest_categorical(row.name, values.values)


def _cmaes(problem: Problem, seed: int) -> BaseSampler:
    """From the start, as it is meant to be used; choices without an order it draws at random."""
    numbers = {row.name: problem.start[row.name] for row in problem.space if not isinstance(row.values, Choices)}
    return CmaEsSampler(x0=numbers, seed=seed, warn_independent_sampling=False)


OURS, TPE, CMAES, RANDOM = "ours", "tpe", "cmaes", "random"
METHODS: Mapping[str, Search] = {
    OURS: search_ours,
    TPE: _search_with(lambda problem, seed: TPESampler(seed=seed)),
    CMAES: _search_with(_cmaes),
    RANDOM: _search_with(lambda problem, seed: RandomSampler(seed=seed)),
}
