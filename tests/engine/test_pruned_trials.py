"""Candidates whose first run is stopped early: in the loop, the books, and after a kill."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from fake_driver import Nursery, Order
from fakes import SOURCE, FakeTask, ScriptedProposer, moved
from kills import go_on_from_states, make_repository

from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Purpose
from autoresearch_jax.engine.run_folder import RunFolder, RunFolderError
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.report.why import explain
from autoresearch_jax.types import CURVE_POINTS, LOSSES, Metric, Status, read_curve

RULE = LineageRule(Metric("loss"), LineageSettings())
PRUNING = Pruning(least_finished=6)


def as_constants(*moves: Proposal) -> ScriptedProposer:
    """A script of moves of constants, in the name of the proposer that is known to move nothing else."""
    proposer = ScriptedProposer(moves)
    proposer.name = "constants"
    return proposer


def worse(number: int) -> Proposal:
    return moved(LR=round(0.6 + 0.03 * number, 2))


LEARNT_FROM = [worse(number) for number in range(PRUNING.least_finished)]
HOPELESS, BETTER = moved(LR=1.0, DEPTH=8), moved(LR=0.1)


def run(bench, *moves: Proposal, task: FakeTask | None = None, pruning: Pruning | None = PRUNING):
    task = task or FakeTask(has_curves=True)
    bench.loop(task, as_constants(*moves), RULE, max_experiments=len(moves), pruning=pruning).run()
    return task, bench.ledger()


def test_a_hopeless_candidate_is_stopped_once_enough_is_known(bench):
    _, ledger = run(bench, *LEARNT_FROM, HOPELESS)
    rows = ledger.experiments()
    assert [row.status for row in rows] == [Status.OK] * 7 + [Status.PRUNED]
    pruned, (trial,) = rows[-1], ledger.trials(7)
    assert (pruned.score, pruned.decision, trial.value, trial.snapshot) == (None, Action.DISCARD, None, None)
    point = len(read_curve(trial.metrics[LOSSES]))
    assert point == PRUNING.first_point
    assert pruned.reason.startswith(f"at {point / CURVE_POINTS:.0%} of the budget its loss was ")
    behind = float(pruned.reason.split("was ")[1].split()[0])
    assert behind == pytest.approx(0.5, abs=0.02), "as its score is"
    assert pruned.reason.endswith(" above the champion's; probability of ending better below 0.02")
    found = explain(ledger, 7, at_work=False)
    assert (found["outcome"], found["trials"][0]["error"]) == ("pruned", pruned.reason)
    line = bench.folder.results.read_text().splitlines()[-1].split("\t")
    assert (line[1], line[3]) == ("", "discard")
    assert ledger.settings()["prune"] is True


def test_a_better_candidate_and_everything_of_a_champion_runs_to_its_end(bench):
    written = Proposal("another text", "attention", source=SOURCE.replace("LR = 0.5", "LR = 0.99"))
    task, ledger = run(bench, *LEARNT_FROM, BETTER, written)
    assert ledger.experiment(7).decision is Action.KEEP
    assert ledger.experiment(8).status is Status.OK, "its loss may be another function than that of moved constants"
    has_limits = {
        trial.id: bool(loss_limits) for trial, loss_limits in zip(ledger.trials(), task.loss_limits, strict=True)
    }
    first = ledger.trials(7)[0]
    assert [number for number, held in has_limits.items() if held] == [first.id], "only its first run"
    assert {trial.purpose for trial in ledger.trials(7)} == {Purpose.CANDIDATE, Purpose.CHAMPION}


def test_without_the_flag_nothing_is_stopped(bench):
    task, ledger = run(bench, *LEARNT_FROM, HOPELESS, pruning=None)
    assert not any(task.loss_limits)
    assert ledger.experiment(7).status is Status.OK
    assert ledger.settings()["prune"] is False
    with pytest.raises(RunFolderError, match="prune False then, True now"):
        run(bench, *LEARNT_FROM, HOPELESS, BETTER)


def test_a_twin_of_what_was_stopped_is_not_trained_and_a_new_text_ends_what_was_learnt(bench):
    """Its loss may be another function, which the constants that are moved next have, too."""
    twin = Proposal("the same again", "constants", {"LR": 1.0, "DEPTH": 8}, source=None)
    written = Proposal("another text", "attention", source=SOURCE.replace("LR = 0.5", "LR = 0.2"))
    task, ledger = run(bench, *LEARNT_FROM, HOPELESS, twin, written, moved(LR=0.9))
    stopped, again, new, after = ledger.experiments()[7:]
    assert (stopped.status, new.decision, after.status) == (Status.PRUNED, Action.KEEP, Status.OK)
    assert (again.status, again.score, again.decision) == (Status.DUPLICATE, None, Action.DISCARD)
    assert again.reason == "the same program as experiment 7, which was stopped early"
    assert ledger.trials(8) == []
    assert not task.loss_limits[-1]


@pytest.mark.slow
def test_dead_around_a_pruned_trial_a_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    repo = make_repository(tmp_path / "repo")

    def around_the_pruned(operations: Sequence[str]) -> Iterable[int]:
        with closing(Ledger.open_to_read(RunFolder(repo / "runs" / "night").ledger)) as ledger:
            pruned = next(row.id for row in ledger.experiments() if row.status is Status.PRUNED)
        begun = [number for number, label in enumerate(operations) if "INSERT experiments" in label]
        return range(begun[pruned], begun[pruned + 1])

    with closing(Nursery()) as nursery:
        order = Order(str(repo), experiments=12, prune_after=4)
        assert go_on_from_states(nursery, order, around_the_pruned, tmp_path) == {}
