"""Runs with several experiments in flight: what is kept, what becomes of the others, and what a kill leaves."""

import io
import itertools
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

import pytest
from fakes import FakeTask, ScriptedProposer, moved
from ledgers import substance
from slots import DrawnOrder

from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import Action, GreedyRule, LineageRule
from autoresearch_jax.engine.integrity import parents_differences
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import INTERRUPTED
from autoresearch_jax.engine.plan import _finished
from autoresearch_jax.engine.records import Kind, Purpose
from autoresearch_jax.engine.state import concluded, runs_beside
from autoresearch_jax.executors.pool import PoolExecutor
from autoresearch_jax.proposers.base import CONSTANTS_PROPOSER, Brief, Proposal
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.report.why import explain, print_explanation
from autoresearch_jax.types import CURVE_POINTS, Metric, Status

RULE = LineageRule(Metric("loss"))
CERTIFICATION = CertificationSettings(share=0.3, every=3)
EXPERIMENTS = 24
SLOTS = 4


class TextsAndConstants(ConstantsProposer):
    """Moves constants, and every third time adds a line to the text, at one of three places."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[int] = []  # how many were out when it was asked

    def propose(self, brief: Brief) -> Proposal:
        self.running.append(len(brief.running))
        if brief.experiment % 3:
            return super().propose(brief)
        lines = brief.champion_source.splitlines(keepends=True)
        place = 3 + brief.experiment % 4
        source = "".join([*lines[:place], f"NOTE_{brief.experiment} = {brief.experiment}\n", *lines[place:]])
        return Proposal(f"a note {brief.experiment}", "text", source=source)


class NotedTask(FakeTask):
    """Each note makes another program, and every sixth is a small gain."""

    def constants(self, source: str) -> dict:
        found = super().constants(source)
        return {**found, "LR": found["LR"]}

    def score(self, constants: Mapping[str, float]) -> float:
        gain = sum(0.004 for name in constants if name.startswith("NOTE_") and int(name[5:]) % 6 == 0)
        return super().score(constants) - gain


def run(bench, order: int = 0, rule=RULE, interrupted_after: int | None = None, slots: int = SLOTS):
    task, proposer = NotedTask(), TextsAndConstants()
    executor = DrawnOrder(task.measure, slots, order, interrupted_after)
    loop = bench.loop(task, proposer, rule, max_experiments=EXPERIMENTS, certification=CERTIFICATION, executor=executor)
    return loop.run(), executor, proposer


@pytest.fixture(scope="module", params=[0, pytest.param(1, marks=pytest.mark.slow)])
def order(request) -> int:
    return request.param


def test_a_night_with_four_in_flight(bench, twin, order, run_git):
    reason, executor, proposer = run(bench, order)
    assert reason == f"{EXPERIMENTS} experiments reached"
    assert executor.most_out == SLOTS
    assert proposer.running[:SLOTS] == list(range(SLOTS))
    ledger = bench.ledger()
    rows, trials = ledger.experiments(), ledger.trials()
    assert sum(row.kind is Kind.PROPOSAL for row in rows) == EXPERIMENTS
    assert not ledger.open_experiments()
    assert not ledger.open_trials()
    kept = [row for row in rows if row.decision is Action.KEEP]
    assert len(kept) > 3
    for before, after in itertools.pairwise(kept):
        assert (after.parent, after.parent_commit) == (before.id, before.commit), "each is made from the one before"
        if after.status is Status.OK:
            fresh = [trial for trial in ledger.trials(after.id) if trial.purpose is Purpose.CHAMPION]
            assert fresh, "on a seed that no decision depended on"
            assert fresh[0].parent == after.parent, "of what was kept"
    log = run_git(bench.repo, "log", "--format=%H", "--first-parent", "autoresearch/night").splitlines()
    assert log[: len(kept) - 1] == [row.commit for row in reversed(kept[1:])]
    moves = ledger.select("moves", ("experiment", "parent", "source"))
    assert moves
    for move in moves:
        assert ledger.experiment(move["experiment"]).parent != move["parent"]
        assert ledger.source(move["experiment"]) != move["source"]
    hashes = Counter(row.program_hash for row in rows if row.status is Status.OK and row.kind is Kind.PROPOSAL)
    assert max(hashes.values()) == 1, "no program is measured as two experiments"
    assert len({(trial.experiment, trial.seed) for trial in trials}) == len(trials)
    assert parents_differences(bench.folder.ledger, ledger) == []
    first = moves[0]["experiment"]
    told, said = explain(ledger, first, at_work=False), io.StringIO()
    before = [move["parent"] for move in moves if move["experiment"] == first]
    assert told["parents"] == [*before, ledger.experiment(first).parent]
    print_explanation(told, said)
    assert f" made from experiment {before[0]}, moved to " in said.getvalue()
    with closing(Ledger.open_to_read(bench.folder.ledger)) as again:
        assert [row.score for row in again.experiments()] == [row.score for row in rows]
        assert again.lineage().champion == ledger.lineage().champion
    assert run(twin, order)[0] == reason
    assert substance(twin.ledger()) == substance(ledger), "the order of completions is all that it depends on"


@pytest.mark.parametrize("after", [41, *(pytest.param(one, marks=pytest.mark.slow) for one in (1, 9, 17))])
def test_what_ran_when_it_was_interrupted_is_run_again(bench, after):
    assert run(bench, interrupted_after=after)[0] == INTERRUPTED
    left = bench.ledger().open_trials()
    assert left
    assert all(trial.interrupted_at is not None for trial in left)
    reason, executor, _ = run(bench, order=5)
    assert reason == f"{EXPERIMENTS} experiments reached"
    assert executor.most_out <= SLOTS
    ledger = bench.ledger()
    assert not ledger.open_experiments()
    assert not ledger.open_trials()
    assert sum(row.kind is Kind.PROPOSAL for row in ledger.experiments()) == EXPERIMENTS
    assert all(ledger.trials(trial.experiment) for trial in left), "none was lost"


@pytest.mark.parametrize(("rule", "seed"), [(GreedyRule(RULE.metric), 0), (RULE, None)])
def test_without_noise_and_under_the_greedy_rule_what_is_moved_is_measured_anew(bench, rule, seed):
    """The smaller gain may come last: then what was measured of it is worse than the champion of now."""
    task = NotedTask(noise=0, has_curves=True)
    executor = DrawnOrder(task.measure, slots=2, seed=seed)
    both = ScriptedProposer([replace(moved(**one), proposer=CONSTANTS_PROPOSER) for one in ({"LR": 0.1}, {"DEPTH": 6})])
    bench.loop(task, both, rule, max_experiments=2, executor=executor).run()
    ledger = bench.ledger()
    _, first, second = ledger.experiments()
    assert [row.decision for row in (first, second)] == [Action.KEEP, Action.KEEP]
    assert second.parent == first.id
    assert (second.constants["LR"], second.constants["DEPTH"]) == (0.1, 6)
    trials = [trial for trial in ledger.trials(second.id) if trial.purpose is Purpose.CANDIDATE]
    assert [trial.parent for trial in trials] == [0, first.id]
    assert trials[0].value != trials[1].value == pytest.approx(second.score)
    compared = list(_finished(ledger, task.metric, CURVE_POINTS))
    assert [max(*one.behind, one.worse) < 0 for one in compared] == [True, True], "with what they were made from then"


def test_the_champion_is_measured_alone_once_all_reverts_are_decided_on(bench):
    task = NotedTask(noise=0.02)
    executor, settings = DrawnOrder(task.measure, SLOTS, 2), CertificationSettings(share=0.45, every=0)
    options = {"max_experiments": 14, "certification": settings, "executor": executor}
    bench.loop(task, TextsAndConstants(), RULE, **options).run()
    ledger = bench.ledger()
    reverts = [row for row in ledger.experiments() if row.kind is Kind.REVERT]
    beside = runs_beside(ledger, concluded(ledger))
    assert reverts
    assert beside
    for revert in reverts:
        own = [trial for trial in ledger.trials(revert.id) if trial not in beside]
        for trial in beside:
            assert not own or not own[0].started_at < trial.started_at < own[-1].finished_at


def test_what_the_champion_has_in_part_is_not_moved(bench):
    task = NotedTask(noise=0.0001)
    executor = DrawnOrder(task.measure, slots=2, seed=None)  # the part is kept first
    one_in_the_other = ScriptedProposer([moved(LR=0.1), moved(LR=0.1, DEPTH=6)])
    bench.loop(task, one_in_the_other, RULE, max_experiments=2, executor=executor).run()
    ledger = bench.ledger()
    part, whole = ledger.experiment(1), ledger.experiment(2)
    assert part.decision is Action.KEEP
    assert whole.parent == 0
    assert whole.reason.startswith("stale: experiment 1 became champion meanwhile"), "its gain counts once"
    assert not ledger.select("moves", ("id",))


def test_trials_in_threads(bench):
    task = NotedTask(trial_seconds=0.01)
    executor = PoolExecutor([task, *(NotedTask(trial_seconds=0.01) for _ in range(SLOTS - 1))])
    with closing(executor):
        loop = bench.loop(
            task,
            TextsAndConstants(),
            RULE,
            max_experiments=EXPERIMENTS,
            certification=CERTIFICATION,
            executor=executor,
        )
        assert loop.run() == f"{EXPERIMENTS} experiments reached"
    ledger = bench.ledger()
    assert not ledger.open_trials()
    assert not ledger.open_experiments()
