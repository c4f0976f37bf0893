"""What a run does next with an experiment, from made-up rows: nothing is written, nothing is run."""

import pytest

from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Complexity, Decision, GreedyRule
from autoresearch_jax.engine.plan import Conclude, OpenExperiment, RunTrial, champion_trial, draw_seed, next_action
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose, TrialRow
from autoresearch_jax.engine.state import RunState
from autoresearch_jax.types import Metric, Status

METRIC = Metric("loss")
RUN_SEED, CHAMPION, CANDIDATE = 7, 0, 1
CHAMPION_SEEDS = (11, 22)


class ScriptedRule:
    """Says what it was told to."""

    def __init__(self, action: Action = Action.DISCARD, baseline_runs: int = 2, fresh_runs: int = 1) -> None:
        self.decision = Decision(action, "why", Estimate(0.01, 0.001), 0.9, 0.002)
        self.baseline_runs, self.fresh_runs = baseline_runs, fresh_runs

    def decide(self, lineage: Lineage, number: int, complexity: Complexity) -> Decision:
        assert complexity.nodes_added == 3
        return self.decision


def row(number: int, kind: Kind = Kind.PROPOSAL) -> ExperimentRow:
    nothing = dict.fromkeys(("status", "score", "decision", "reason", "commit", "seconds"))
    parent = None if kind is Kind.BASELINE else CHAMPION
    return ExperimentRow(number, kind, parent, None, "", "", "", 0.0, {}, 0.0, f"program {number}", **nothing)


def trial(number: int, value: float | None, purpose: Purpose, seed: int = 5, experiment: int = CANDIDATE) -> TrialRow:
    status, error = (Status.OOM, "no memory") if value is None else (Status.OK, None)
    return TrialRow(number, experiment, seed, 0.0, 1.0, status, value, {}, None, error, purpose)


def state(lineage: Lineage | None = None) -> RunState:
    runs = [trial(n, 1.0, Purpose.CHAMPION, seed, CHAMPION) for n, seed in enumerate(CHAMPION_SEEDS)]
    return RunState(
        champion=row(CHAMPION, Kind.BASELINE),
        runs=runs,
        used_seeds=[1, 2, 3],
        score=Estimate(1.0, 0.0),
        lineage=lineage,
        anchor=frozenset(),
        baseline=CHAMPION,
        baseline_memory=None,
        looked_at=frozenset(),
        keeps_since_certified=0,
        certification_runs=0,
    )


def with_lineage() -> RunState:
    lineage = Lineage(-1)
    lineage.begin(CHAMPION)
    for seed in CHAMPION_SEEDS:
        lineage.observe(CHAMPION, 1.0, seed)
    lineage.conclude(CHAMPION, kept=True)
    lineage.begin(CANDIDATE)
    lineage.observe(CANDIDATE, 0.9, CHAMPION_SEEDS[1])
    return state(lineage)


def candidate(*trials: TrialRow, decision: Decision | None = None, kind: Kind = Kind.PROPOSAL) -> OpenExperiment:
    return OpenExperiment(row(CANDIDATE, kind), trials, decision, nodes_added=3)


def planned(experiment: OpenExperiment, rule: ScriptedRule | GreedyRule, of: RunState | None) -> RunTrial | Conclude:
    return next_action(of, experiment, rule, METRIC, RUN_SEED)


FIRST_RUN = trial(3, 0.9, Purpose.CANDIDATE, CHAMPION_SEEDS[1])
FRESH_RUN = trial(4, 0.95, Purpose.CHAMPION)


def test_a_candidate_is_paired_with_the_champions_seeds_first():
    action = planned(candidate(), ScriptedRule(), with_lineage())
    assert action == RunTrial(CANDIDATE, Purpose.CANDIDATE, CHAMPION_SEEDS[CANDIDATE])


def test_once_these_are_used_up_it_runs_on_fresh_ones():
    rule = ScriptedRule(Action.MEASURE_CANDIDATE)
    both = [trial(3 + n, 0.9, Purpose.CANDIDATE, seed) for n, seed in enumerate(CHAMPION_SEEDS)]
    action = planned(candidate(*both), rule, with_lineage())
    assert action == RunTrial(CANDIDATE, Purpose.CANDIDATE, draw_seed(RUN_SEED, CANDIDATE, 2), rule.decision)


def test_in_doubt_of_the_champion_the_champion_runs_on_a_fresh_seed():
    rule = ScriptedRule(Action.MEASURE_CHAMPION)
    action = planned(candidate(FIRST_RUN), rule, with_lineage())
    assert action == RunTrial(CHAMPION, Purpose.CHAMPION, draw_seed(RUN_SEED, CHAMPION, 3), rule.decision)
    certifies = champion_trial(with_lineage(), Purpose.CERTIFY, RUN_SEED)
    assert certifies == RunTrial(CHAMPION, Purpose.CERTIFY, draw_seed(RUN_SEED, CHAMPION, 3))


@pytest.mark.parametrize("keeps", [Action.KEEP, Action.KEEP_SIMPLER])
def test_a_keep_runs_afresh_before_it_ends_and_its_decision_is_stored_once(keeps):
    rule = ScriptedRule(keeps)
    fresh = planned(candidate(FIRST_RUN), rule, with_lineage())
    assert fresh == RunTrial(CANDIDATE, Purpose.CHAMPION, draw_seed(RUN_SEED, CANDIDATE, 1), rule.decision)
    undecided = ScriptedRule(Action.DISCARD)  # is not asked any more
    after_a_kill = planned(candidate(FIRST_RUN, decision=rule.decision), undecided, with_lineage())
    assert after_a_kill == RunTrial(CANDIDATE, Purpose.CHAMPION, draw_seed(RUN_SEED, CANDIDATE, 1))
    end = planned(candidate(FIRST_RUN, FRESH_RUN, decision=rule.decision), undecided, with_lineage())
    assert end == Conclude(Status.OK, rule.decision)


def test_the_greedy_rule_decides_by_one_run_each():
    rule = GreedyRule(METRIC)
    better, worse = (planned(candidate(trial(3, value, Purpose.CANDIDATE)), rule, state()) for value in (0.9, 1.1))
    assert (better.decision.action, worse.decision.action) == (Action.KEEP, Action.DISCARD)


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([trial(3, None, Purpose.CANDIDATE)], "no memory"),
        ([FIRST_RUN, trial(4, None, Purpose.CHAMPION)], "afresh as the champion: no memory"),
    ],
)
def test_a_candidate_that_fails_once_is_over(trials, reason):
    action = planned(candidate(*trials), ScriptedRule(), with_lineage())
    assert (action.status, action.decision.action) == (Status.OOM, Action.DISCARD)
    assert action.decision.reason.endswith(reason)


def baseline(*values: float | None) -> OpenExperiment:
    trials = [trial(n, value, Purpose.CHAMPION, n, CHAMPION) for n, value in enumerate(values)]
    return OpenExperiment(row(CHAMPION, Kind.BASELINE), trials)


def test_a_baseline_runs_until_its_noise_is_known():
    rule = ScriptedRule(baseline_runs=2)
    for values in ([], [1.0], [1.0, None], [1.0, None, None]):
        action = planned(baseline(*values), rule, None)
        assert action == RunTrial(CHAMPION, Purpose.CHAMPION, draw_seed(RUN_SEED, CHAMPION, len(values)))
    end = planned(baseline(1.0, None, 1.2), rule, None)
    assert (end.status, end.decision.action) == (Status.OK, Action.KEEP)
    assert "2 runs" in end.decision.reason


@pytest.mark.parametrize("values", [[None], [1.0, None, None, None]])
def test_a_baseline_fails_at_once_or_after_three_failures_in_a_row(values):
    action = planned(baseline(*values), ScriptedRule(), None)
    assert (action.status, action.decision.action) == (Status.OOM, Action.DISCARD)


def test_a_revert_is_decided_by_certification_and_its_runs_say_so():
    lineage = Lineage(-1)
    for number, scores in ((0, (1.0, 1.001)), (1, (0.9, 0.901))):
        lineage.begin(number)
        for seed, score in zip(CHAMPION_SEEDS, scores, strict=True):
            lineage.observe(number, score, seed)
        lineage.conclude(number, kept=True)
    lineage.begin(2, without=[1])
    revert = OpenExperiment(row(2, Kind.REVERT))
    first = next_action(state(lineage), revert, ScriptedRule(), METRIC, RUN_SEED)
    assert first == RunTrial(2, Purpose.CERTIFY, CHAMPION_SEEDS[0])
    trials = []
    for n, seed in enumerate(CHAMPION_SEEDS):
        lineage.observe(2, 1.0, seed)
        trials.append(trial(5 + n, 1.0, Purpose.CERTIFY, seed, 2))
    end = next_action(state(lineage), OpenExperiment(row(2, Kind.REVERT), trials), ScriptedRule(), METRIC, RUN_SEED)
    assert (end.status, end.decision.action) == (Status.OK, Action.DISCARD), "what it takes out is a gain"


def test_seeds_are_too_many_to_try_out() -> None:
    seeds = [draw_seed(0, number, 0) for number in range(100)]
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert sum(seed > 2**60 for seed in seeds) > 50
